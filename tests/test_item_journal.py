"""The journal of covers: one answer serves every item behind an address, and nothing that is held is lost again."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from ninerec_data import item_journal as module
from ninerec_data.home import Home
from ninerec_data.item_journal import ItemJournal, has_items, item_journal
from ninerec_data.item_rows import CONFIRMED_AFTER, Address, Answer, Stored
from ninerec_data.outcomes import AGAIN, HELD, Outcome
from ninerec_data.raw import held_files

NOW = 1_700_000_000.0  # seconds since 1970
DAY = 86_400.0
HOST = "pictures.example"
WANTED = {"originals": True, "recipe": None}


class Time:
    """The journal's clock."""

    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def journal(tmp_path: Path, clock: Time) -> Iterator[ItemJournal]:
    with item_journal(Home(tmp_path), many=True) as items:
        yield items


def url(name: str) -> str:
    return f"https://{HOST}/{name}.jpg"


def enter(journal: ItemJournal, dataset: str = "a", variant: str = "", **urls: Any) -> dict:
    """Items, each with the name of its address; None: without one."""
    rows = [Address(item_id=i, raw=u, url=u and url(u)) for i, u in urls.items()]
    return {what: n for what, n in journal.enter(dataset, rows, variant).items() if n}


def picture(name: str = "p", **more: Any) -> Stored:
    given = {"size": 10, "kind": "jpeg", "width": 160, "height": 100, "kept": True}
    return Stored(sha256=name, **{**given, **more})


def ok(journal: ItemJournal, name: str, stored: Stored | None = None, **more: Any) -> None:
    """A picture came; of its own unless one is given."""
    stored = stored or picture(f"of {name}")
    given = {"outcome": Outcome.OK, "lane": HOST, "host": HOST, "sha256": stored.sha256}
    journal.answered(url(name), more.pop("variant", ""), Answer(**{**given, **more}), stored)


def no(journal: ItemJournal, name: str, outcome: Outcome, reason: str = "why") -> None:
    journal.answered(url(name), "", Answer(outcome=outcome, reason=reason, lane=HOST, host=HOST))


def gone(journal: ItemJournal, name: str) -> None:
    no(journal, name, Outcome.GONE, "http_404")


def outcomes(journal: ItemJournal, dataset: str = "a") -> dict[str, str]:
    """Item -> outcome and reason; "" for one that was never asked for."""
    rows = journal._db.execute(
        "select item_id, coalesce(outcome, ''), coalesce(reason, '') from items where dataset = ?",
        (dataset,),
    )
    return {item_id: f"{outcome} {reason}".strip() for item_id, outcome, reason in rows}


def of_item(journal: ItemJournal, item_id: str, column: str, dataset: str = "a") -> Any:
    """A column of the item, its address or its picture."""
    return journal._db.execute(
        f"select {column} from items i left join urls u on u.url = i.url and u.variant = i.variant"
        " left join blobs b on b.sha256 = i.sha256 where i.dataset = ? and i.item_id = ?",
        (dataset, item_id),
    ).fetchone()[0]


def pending(journal: ItemJournal, *datasets: str, retry: Any = AGAIN, **form: Any) -> list[str]:
    """Names of the addresses to ask for."""
    rows = journal.pending(datasets or ("a",), retry, **{**WANTED, **form})
    return [u.removeprefix(f"https://{HOST}/").removesuffix(".jpg") for u, _ in rows]


# Items and their addresses


def test_items_are_new_changed_or_left_out(journal: ItemJournal) -> None:
    assert enter(journal, v1="a", v2="b", v3="c") == {"new": 3}
    assert enter(journal, v1="a", v2="b", v3="c") == {}
    gone(journal, "c")
    assert enter(journal, v1="a", v2="other") == {"changed": 1, "left out": 1}
    assert enter(journal, v1="a", v2="other", v4="d") == {"new": 1}


def test_items_that_are_left_out_are_forgotten_unless_held(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b", v3="c", v4="d")
    ok(journal, "a")
    gone(journal, "b")
    journal.from_backup("a", "v3", picture(), "backup/v3.jpg")
    assert enter(journal, v5="e") == {"new": 1, "left out": 4}
    assert {"v1": "OK", "v3": "OK_BACKUP"}.items() <= outcomes(journal).items()
    assert "v2" not in outcomes(journal)


def test_an_item_never_asked_for_that_is_left_out_is_forgotten(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b")
    enter(journal, v1="a")
    assert outcomes(journal) == {"v1": ""}


def test_an_item_without_an_address_says_why(journal: ItemJournal) -> None:
    rows = [
        Address(item_id="v1"),
        Address(item_id="v2", raw="ftp://x", reason="scheme"),
        Address(item_id="v3", raw="x", url=url("x")),
    ]
    journal.enter("a", rows, "")
    assert outcomes(journal) == {"v1": "UNMAPPED", "v2": "CONFIG scheme", "v3": ""}
    assert pending(journal) == ["x"]


def test_an_item_that_got_an_address_is_asked_for_and_one_that_lost_it_is_not(
    journal: ItemJournal,
) -> None:
    enter(journal, v1=None, v2="b")
    gone(journal, "b")
    assert enter(journal, v1="a", v2=None) == {"changed": 2}
    assert pending(journal) == ["a"]
    assert outcomes(journal) == {"v1": "", "v2": "UNMAPPED"}


def test_another_address_is_asked_for_anew_unless_the_item_is_held(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b", v3="c")
    ok(journal, "a")
    gone(journal, "b")
    no(journal, "c", Outcome.REJECTED)
    enter(journal, v1="a2", v2="b2", v3=None)
    assert outcomes(journal) == {"v1": "OK", "v2": "", "v3": "UNMAPPED"}
    assert pending(journal) == ["b2"]
    assert of_item(journal, "v1", "i.sha256") == "of a"


def test_back_at_its_first_address_an_item_has_what_came_of_it(journal: ItemJournal) -> None:
    enter(journal, v1="a")
    gone(journal, "a")
    enter(journal, v1="b")
    enter(journal, v1="a")
    assert outcomes(journal) == {"v1": "GONE http_404"}


def test_datasets_do_not_mix(journal: ItemJournal) -> None:
    enter(journal, "a", v1="a")
    enter(journal, "b", v1="b")
    gone(journal, "b")
    assert (outcomes(journal, "a"), outcomes(journal, "b")) == ({"v1": ""}, {"v1": "GONE http_404"})
    enter(journal, "b", v2="b")
    assert outcomes(journal, "a") == {"v1": ""}
    assert journal.counts("a") == {"TRANSIENT": 1}


def test_addresses_keep_the_raw_one_and_come_in_the_order_of_ids(journal: ItemJournal) -> None:
    rows = [Address(item_id=i, raw=f" {i}", url=url(i)) for i in ("v2", "v10", "v1")]
    journal.enter("a", rows, "")
    found = [(a.item_id, a.raw, a.url) for a in journal.addresses("a")]
    assert found == [(i, f" {i}", url(i)) for i in ("v1", "v10", "v2")]


# One address, many items


def test_one_answer_serves_every_item_behind_an_address(journal: ItemJournal) -> None:
    enter(journal, "a", v1="x", v2="x", v3="y")
    enter(journal, "b", w1="x")
    assert journal.pending(["a", "b"], AGAIN, **WANTED) == [(url("x"), 3), (url("y"), 1)]
    ok(journal, "x")
    assert outcomes(journal, "a") == {"v1": "OK", "v2": "OK", "v3": ""}
    assert outcomes(journal, "b") == {"w1": "OK"}
    assert pending(journal, "a", "b") == ["y"]


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK_BACKUP])
def test_a_later_item_shares_what_came_of_its_address(
    journal: ItemJournal, outcome: Outcome
) -> None:
    enter(journal, "a", v1="x")
    ok(journal, "x") if outcome is Outcome.OK else no(journal, "x", outcome)
    enter(journal, "b", w1="x", w2="y")
    assert outcomes(journal, "b")["w1"] == outcomes(journal, "a")["v1"]
    for column in ("i.sha256", "i.source", "i.seen"):
        assert of_item(journal, "w1", column, "b") == of_item(journal, "v1", column)
    assert pending(journal, "b") == (["x"] if outcome in AGAIN else []) + ["y"]


def test_variants_of_an_address_are_asked_for_apart(journal: ItemJournal) -> None:
    enter(journal, "a", v1="x")
    enter(journal, "b", "small", w1="x")
    ok(journal, "x", picture("small one"), variant="small")
    assert (outcomes(journal, "a"), outcomes(journal, "b")) == ({"v1": ""}, {"w1": "OK"})
    assert pending(journal, "a", "b") == ["x"]


# What is to be asked for


def test_what_is_asked_for_again_is_what_the_user_says(journal: ItemJournal) -> None:
    names = {outcome: outcome.lower() for outcome in Outcome if outcome not in HELD}
    enter(journal, never="never", ok="ok", **{name: name for name in names.values()})
    ok(journal, "ok")
    for outcome, name in names.items():
        no(journal, name, outcome)
    assert pending(journal) == ["blocked", "never", "transient"]
    assert pending(journal, retry=()) == ["never"]
    for outcome, name in names.items():
        assert set(pending(journal, retry=(outcome,))) == {"never", name}


def test_addresses_come_in_the_order_of_their_first_items(journal: ItemJournal) -> None:
    enter(journal, "b", a="z")
    enter(journal, "a", v3="y", v1="x", v2="y")
    assert pending(journal, "a", "b") == ["x", "y", "z"]
    assert pending(journal, "b", "a") == ["x", "y", "z"]
    assert pending(journal, "b") == ["z"]


@pytest.mark.parametrize(
    ("held", "wanted", "asks"),
    [
        ({}, {}, False),
        ({}, {"originals": False, "recipe": "r1"}, False),  # resized from what is there
        ({"kept": False, "resized": "s", "recipe": "r1"}, {}, True),
        (
            {"kept": False, "resized": "s", "recipe": "r1"},
            {"originals": False, "recipe": "r1"},
            False,
        ),
        (
            {"kept": False, "resized": "s", "recipe": "r1"},
            {"originals": False, "recipe": "r2"},
            True,
        ),
        ({"resized": "s", "recipe": "r1"}, {"originals": False, "recipe": "r2"}, False),
    ],
)
def test_a_form_that_does_not_do_is_asked_for_again(
    journal: ItemJournal, held: dict, wanted: dict, asks: bool
) -> None:
    enter(journal, v1="a")
    ok(journal, "a", picture(**held))
    assert pending(journal, **wanted) == (["a"] if asks else [])


def test_a_form_that_cannot_be_had_any_more_is_not_asked_for_each_time(
    journal: ItemJournal,
) -> None:
    enter(journal, v1="a")
    ok(journal, "a", picture(kept=False, resized="s", recipe="r1"))
    assert pending(journal) == ["a"]
    gone(journal, "a")
    assert outcomes(journal) == {"v1": "OK"}
    assert pending(journal) == []
    assert pending(journal, retry=(Outcome.GONE,)) == ["a"]


def test_covers_at_hand_are_not_asked_for(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b", v3="c", v4=None)
    journal.from_backup("a", "v1", picture("p1"), "backup/v1.jpg")
    journal.from_release("a", {"v2": "X_cover/v2.jpg"})
    journal.from_release("a", {"v4": "X_cover/v4.jpg"}, picture("p4"))
    assert outcomes(journal) == {"v1": "OK_BACKUP", "v2": "OK", "v3": "", "v4": "OK"}
    assert pending(journal) == ["c"]
    assert of_item(journal, "v1", "i.source") == "backup/v1.jpg"
    assert of_item(journal, "v2", "i.source") == "release!X_cover/v2.jpg"
    assert (of_item(journal, "v2", "i.sha256"), of_item(journal, "v4", "b.size")) == (None, 10)
    assert journal.without_cover("a") == {"v3": ""}


# Answers


def test_what_is_held_stays_held_whatever_comes_later(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b")
    ok(journal, "a")
    journal.from_backup("a", "v2", picture("p"), "backup/v2.jpg")
    for outcome in Outcome:
        if outcome not in HELD:
            no(journal, "a", outcome)
            no(journal, "b", outcome)
            journal.not_asked([url("a"), url("b")], "", outcome, "host_down", "")
            assert outcomes(journal) == {"v1": "OK", "v2": "OK_BACKUP"}
    assert of_item(journal, "v1", "i.sha256") == "of a"
    ok(journal, "a")
    journal.not_asked([url("a")], "", Outcome.BLOCKED, "host_down", "")
    assert journal.alive(HOST) == url("a")
    ok(journal, "b")
    assert outcomes(journal)["v2"] == "OK"  # the origin's own goes before the backup's


def test_an_answer_is_kept_with_everything_that_was_said(journal: ItemJournal, clock: Time) -> None:
    enter(journal, v1="a")
    no(journal, "a", Outcome.TRANSIENT)
    clock.now += 5
    told = {"final_url": "https://x/y", "hops": 2, "status": 200, "etag": '"e"', "modified": "m"}
    ok(journal, "a", detail="d", **told)
    for column, value in {**told, "detail": "d", "lane": HOST, "attempts": 2}.items():
        assert of_item(journal, "v1", f"u.{column}") == value
    assert of_item(journal, "v1", "u.first_seen") == NOW
    assert of_item(journal, "v1", "u.last_seen") == of_item(journal, "v1", "i.seen") == NOW + 5
    assert of_item(journal, "v1", "u.reason") == of_item(journal, "v1", "i.reason") == ""


def test_a_title_stays_where_a_later_answer_has_none(journal: ItemJournal) -> None:
    rows = [
        Address(item_id="v1", raw="a", url=url("a"), untitled=True),
        Address(item_id="v2", raw="a", url=url("a")),
        Address(item_id="v3", raw="b", url=url("b"), untitled=True),
    ]
    journal.enter("a", rows, "")
    ok(journal, "a", title="标题")
    no(journal, "a", Outcome.TRANSIENT)
    assert journal.page_titles("a") == [("v1", "标题")]


def test_a_picture_kept_in_two_forms_is_one_row(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b")
    ok(journal, "a", picture("p", kept=False, resized="s", resized_size=5, recipe="r1", codecs="c"))
    ok(journal, "b", picture("p"))
    assert list(journal.blobs()) == [("p", 10, 1, "s", 5)]
    assert of_item(journal, "v1", "b.recipe") == "r1"
    ok(journal, "a", picture("p", kept=False))
    assert of_item(journal, "v1", "b.kept") == 1


def test_not_asked_says_why_but_counts_as_no_attempt(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b", v3="c")
    ok(journal, "c")
    journal.not_asked([url("a"), url("b")], "", Outcome.BLOCKED, "host_blocked", "until 12:00")
    assert outcomes(journal) == {**dict.fromkeys(("v1", "v2"), "BLOCKED host_blocked"), "v3": "OK"}
    assert of_item(journal, "v1", "u.detail") == "until 12:00"
    assert of_item(journal, "v1", "u.attempts") == 0
    assert of_item(journal, "v1", "u.last_seen") is None
    assert journal.reasons("a") == [("BLOCKED", "host_blocked", 2)]


def test_counts_and_reasons_add_up(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="b", v3="c", v4="d", v5=None)
    ok(journal, "a")
    gone(journal, "b")
    gone(journal, "c")
    assert journal.counts("a") == {"GONE": 2, "OK": 1, "TRANSIENT": 1, "UNMAPPED": 1}
    assert journal.reasons("a") == [
        ("GONE", "http_404", 2),
        ("TRANSIENT", "not asked yet", 1),
        ("UNMAPPED", "no address", 1),
    ]


def test_the_control_item_of_a_host_is_the_last_that_gave_a_picture(
    journal: ItemJournal, clock: Time
) -> None:
    enter(journal, v1="a", v2="b", v3="c")
    assert journal.alive(HOST) is None
    for name in ("b", "a", "c"):
        ok(journal, name)
        clock.now += 1
    no(journal, "c", Outcome.TRANSIENT)
    assert journal.alive(HOST) == url("a")
    assert journal.alive("elsewhere.example") is None


# One picture for many addresses


def test_one_picture_for_many_addresses_is_refused_in_any_order(tmp_path: Path) -> None:
    """Five addresses give one picture, three give their own; each order of arrival, and each cut into two runs."""
    names = [f"same{n}" for n in range(5)] + [f"own{n}" for n in range(3)]
    draw = random.Random(0)
    orders = [list(names), names[::-1], *(draw.sample(names, 8) for _ in range(8))]
    ends = set()
    for number, order in enumerate(orders):
        home = Home(tmp_path / str(number))
        for part in (order[: number % 8], order[number % 8 :]):
            with item_journal(home, many=True) as items:
                enter(items, **{name: name for name in names})
                for name in part:
                    ok(items, name, picture("placeholder") if "same" in name else None)
                ends.add(str(sorted(outcomes(items).items()))) if part else None
                last = outcomes(items), [of_item(items, n, "coalesce(u.detail, '')") for n in names]
        said = ["the same picture at 5 addresses or more"] * 5 + [""] * 3
        refused = {n: "REJECTED one_for_many" if "same" in n else "OK" for n in names}
        assert last == (refused, said), order
    assert len(ends) > 2


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_addresses_of_several_datasets_are_refused_together(
    journal: ItemJournal, order: tuple[int, ...]
) -> None:
    for dataset in "abc":
        enter(journal, dataset, **{f"{dataset}{n}": f"{dataset}{n}" for n in range(2)})
    for number in order:
        for n in range(2):
            ok(journal, f"{'abc'[number]}{n}", picture("placeholder"))
    for dataset in "abc":
        assert set(outcomes(journal, dataset).values()) == {"REJECTED one_for_many"}
        assert of_item(journal, f"{dataset}0", "i.sha256", dataset) is None


def test_four_addresses_or_five_of_two_hosts_or_one_for_five_items_are_no_placeholder(
    journal: ItemJournal,
) -> None:
    enter(journal, **{f"v{n}": f"v{n}" for n in range(5)}, **{f"w{n}": "w" for n in range(5)})
    for n in range(4):
        ok(journal, f"v{n}", picture("p"))
    ok(journal, "v4", picture("p"), host="elsewhere.example")
    ok(journal, "w", picture("p", size=10), host="elsewhere.example")
    assert set(outcomes(journal).values()) == {"OK"}


def test_two_variants_of_an_address_are_one_address(journal: ItemJournal) -> None:
    enter(journal, "a", **{f"v{n}": f"v{n}" for n in range(4)})
    enter(journal, "b", "small", w0="v0")
    for n in range(4):
        ok(journal, f"v{n}", picture("p"))
    ok(journal, "v0", picture("p"), variant="small")
    assert set(outcomes(journal, "a").values()) == set(outcomes(journal, "b").values()) == {"OK"}


def test_a_placeholder_leaves_what_the_backup_holds(journal: ItemJournal) -> None:
    enter(journal, **{f"v{n}": f"v{n}" for n in range(5)})
    journal.from_backup("a", "v0", picture("p"), "backup/v0.jpg")
    for n in range(1, 5):
        ok(journal, f"v{n}", picture("p"))
    assert set(outcomes(journal).values()) == {"OK", "OK_BACKUP"}
    journal.from_backup("a", "v1", picture("of v1"), "backup/v1.jpg")
    enter(journal, **{f"v{n}": f"v{n}" for n in range(6)})
    ok(journal, "v5", picture("p"))
    ended = outcomes(journal)
    assert (ended["v0"], ended["v1"]) == ("OK_BACKUP", "OK_BACKUP")
    assert {ended[f"v{n}"] for n in range(2, 6)} == {"REJECTED one_for_many"}


def test_an_item_that_comes_later_to_a_placeholder_holds_no_picture(journal: ItemJournal) -> None:
    enter(journal, "a", **{f"v{n}": f"v{n}" for n in range(5)})
    for n in range(5):
        ok(journal, f"v{n}", picture("p"))
    enter(journal, "b", w="v0")
    assert outcomes(journal, "b") == {"w": "REJECTED one_for_many"}
    assert of_item(journal, "w", "i.sha256", "b") == of_item(journal, "v0", "i.sha256")


def test_a_placeholder_for_many_costs_no_more_for_each(journal: ItemJournal) -> None:
    names = [f"v{n}" for n in range(200)]
    enter(journal, **{name: name for name in names})
    before = journal.changes
    for name in names:
        ok(journal, name, picture("placeholder"))
    assert set(outcomes(journal).values()) == {"REJECTED one_for_many"}
    assert journal.changes - before < 6 * len(names)


# Tombstones


def confirmed(journal: ItemJournal, item_id: str = "v1") -> bool:
    since, last = (of_item(journal, item_id, f"u.{name}") for name in ("gone_since", "last_seen"))
    return since is not None and last - since >= CONFIRMED_AFTER


@pytest.mark.parametrize(("hours", "sure"), [(0, False), (23.99, False), (24, True), (100, True)])
def test_a_tombstone_is_sure_after_a_second_look_a_day_later(
    journal: ItemJournal, clock: Time, hours: float, sure: bool
) -> None:
    enter(journal, v1="a")
    gone(journal, "a")
    assert not confirmed(journal)
    clock.now += hours * 3600
    assert not confirmed(journal)  # time alone says nothing
    gone(journal, "a")
    assert confirmed(journal) is sure


@pytest.mark.parametrize("between", [o for o in Outcome if o not in (*HELD, Outcome.GONE)])
def test_another_answer_in_between_takes_the_tombstone_back(
    journal: ItemJournal, clock: Time, between: Outcome
) -> None:
    enter(journal, v1="a")
    gone(journal, "a")
    clock.now += DAY
    no(journal, "a", between)
    clock.now += DAY
    gone(journal, "a")
    assert not confirmed(journal)


def test_not_to_ask_is_no_look(journal: ItemJournal, clock: Time) -> None:
    enter(journal, v1="a")
    gone(journal, "a")
    clock.now += 2 * DAY
    journal.not_asked([url("a")], "", Outcome.BLOCKED, "host_blocked", "")
    assert not confirmed(journal)
    gone(journal, "a")
    assert confirmed(journal)


# Pictures that are not there any more


def test_lost_pictures_are_asked_for_again(journal: ItemJournal) -> None:
    enter(journal, v1="a", v2="a", v3="b", v4="c", v5="d")
    enter(journal, "b", w1="a")
    ok(journal, "a")
    ok(journal, "b")
    gone(journal, "c")
    journal.from_backup("a", "v5", picture("p5"), "backup/v5.jpg")
    journal.lost(["of a", "p5"])
    assert outcomes(journal) == {"v1": "", "v2": "", "v3": "OK", "v4": "GONE http_404", "v5": ""}
    assert pending(journal, "a", "b") == ["a", "d"]
    assert outcomes(journal, "b") == {"w1": ""}
    assert [row[0] for row in journal.blobs()] == ["of b"]


def test_to_lose_many_is_one_pass(journal: ItemJournal) -> None:
    names = [f"v{n}" for n in range(500)]
    enter(journal, **{name: name for name in names})
    for name in names:
        ok(journal, name)
    steps = []
    journal._db.set_progress_handler(lambda: steps.append(1), 1000)
    journal.lost([f"of {name}" for name in names])
    journal._db.set_progress_handler(None, 0)
    assert set(outcomes(journal).values()) == {""}
    assert len(steps) < 200  # thousands of instructions; a pass for each takes ten times as many


def test_the_pictures_of_every_dataset_are_looked_for(journal: ItemJournal) -> None:
    enter(journal, "a", v1="v1", v2="v2")
    enter(journal, "b", w1="w1")
    ok(journal, "v1", picture("p", kept=False, resized="s", resized_size=3, recipe="r"))
    gone(journal, "v2")
    ok(journal, "w1")
    assert list(journal.blobs()) == [("of w1", 10, 1, None, None), ("p", 10, 0, "s", 3)]
    assert (journal.sizes("a", 5), journal.sizes("b", 0), journal.sizes("c", 5)) == ([10], [], [])


# Hosts and downloads


def test_hosts_are_kept_as_they_were_last_saved(journal: ItemJournal) -> None:
    assert journal.hosts() == {}
    journal.save_hosts({"x": {"rate": 0.5, "control": None}, "m x": {"rate": None}})
    journal.save_hosts({"x": {"rate": 0.25}})
    assert journal.hosts() == {"x": {"rate": 0.25}, "m x": {"rate": None}}


def test_a_download_is_open_until_it_has_ended(tmp_path: Path) -> None:
    how = {"keep": "resized", "variant": "small", "recipe": "{}", "read_from": "abc"}
    home = Home(tmp_path)
    with item_journal(home, many=True) as items:
        assert items.download("a") == {}
        items.mark("a", is_open=True, **how)
        items.mark("b", is_open=False, **how)
    with item_journal(home) as items:
        assert items.download("a") == {"open": 1, **how}
        assert items.download("b")["open"] == 0


# The file


def test_many_small_writes_go_through_a_log_that_is_gone_at_the_end(tmp_path: Path) -> None:
    home, names = Home(tmp_path), lambda: {path.name for path in tmp_path.rglob("journal*")}
    with item_journal(home, many=True) as items:
        enter(items, v1="a")
        assert items._db.execute("pragma journal_mode").fetchone() == ("wal",)
        assert "journal.sqlite-wal" in names()
        with item_journal(home) as other:  # whoever reads meanwhile sees what is committed
            assert outcomes(other) == {"v1": ""}
    assert names() == {"journal.sqlite"}
    with closing(sqlite3.connect(home.raw / "journal.sqlite")) as connection:
        # What says "wal" cannot be read on a disk that is read only.
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
        assert connection.execute("select count(*) from items").fetchone() == (1,)


def test_an_error_in_between_loses_nothing_that_was_said_before(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def stopped() -> None:
        with item_journal(home, many=True) as items:
            enter(items, v1="a", v2="b")
            ok(items, "a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(home.raw.glob("*-wal"))
    with item_journal(home) as items:
        assert outcomes(items) == {"v1": "OK", "v2": ""}


def test_who_reads_at_the_end_of_a_download_does_not_stop_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with item_journal(home, many=True) as items:
        enter(items, v1="a")
        reader = sqlite3.connect(home.raw / "journal.sqlite")
        reader.execute("begin")
        reader.execute("select * from items").fetchone()
    reader.close()
    with item_journal(home, many=True) as items:
        assert outcomes(items) == {"v1": ""}
    assert [path.name for path in home.raw.iterdir()] == ["journal.sqlite"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_a_network_file_system_has_the_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, "_file_system", lambda _: kind)
    with item_journal(Home(tmp_path), many=True) as items:
        enter(items, v1="a")
        assert items._db.execute("pragma journal_mode").fetchone() == ("delete",)
        assert items._db.execute("pragma synchronous").fetchone() == (2,)
        assert [path.name for path in tmp_path.rglob("journal*")] == ["journal.sqlite"]


def test_the_file_system_of_a_folder_is_that_of_its_longest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = (
        f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n/dev/b {tmp_path}/local xfs rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_: mounts)
    assert module._file_system(tmp_path / "home") == "nfs4"
    assert module._file_system(tmp_path / "local" / "home") == "xfs"
    assert module._file_system(Path("/etc")) == "ext4"


def test_to_look_into_a_home_without_covers_writes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not has_items(home)
    assert not list(tmp_path.iterdir())
    held_files(home, "a")
    with item_journal(home):
        pass
    assert not has_items(home)
    with item_journal(home, many=True):
        pass
    assert has_items(home)
