"""Terms are accepted once, by their very words; the note of it is written whole and never guessed at."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from releases import leftovers
from test_download_prepare import EVERY, NAME, Calm, mapped, take_in, write_release

from ninerec_data.catalog import Terms
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home
from ninerec_data.raw import journal
from ninerec_data.terms import accept, accepted, hash_of_terms

TERMS = Terms(key="ninerec", text="Research only.", url="https://terms.example/")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_terms_are_accepted_once_and_only_these_words(home: Home) -> None:
    assert not accepted(home, TERMS)
    assert not home.raw.exists()  # asking leaves nothing
    accept(home, TERMS, "asked")
    assert accepted(home, TERMS)
    assert not accepted(home, replace(TERMS, text="Research only!"))
    assert not accepted(home, replace(TERMS, url="https://terms.example/2"))
    assert not accepted(home, replace(TERMS, key="mind"))


def test_other_words_take_the_place_of_the_old_and_leave_the_rest(home: Home) -> None:
    other, newer = replace(TERMS, key="mind"), replace(TERMS, text="Research, and no sale.")
    for terms in (TERMS, other, newer):
        accept(home, terms, "--accept-terms")
    assert accepted(home, newer)
    assert accepted(home, other)
    assert not accepted(home, TERMS)


def test_what_was_accepted_when_and_how_is_written_down(home: Home) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    accept(home, TERMS, "--accept-terms")
    (row,) = json.loads((home.raw / "terms.json").read_text("utf-8")).values()
    assert before <= datetime.fromisoformat(row.pop("accepted")) <= datetime.now(UTC)
    assert row == {
        "how": "--accept-terms",
        "sha256": hash_of_terms(TERMS),
        "url": "https://terms.example/",
    }


def test_text_and_address_cannot_be_mistaken_for_each_other() -> None:
    hashes = {hash_of_terms(replace(TERMS, text=t, url=u)) for t, u in (("ab", "c"), ("a", "bc"))}
    assert len(hashes) == 2
    assert all(len(word) == 64 for word in hashes)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'"x"', b"null", b'{"ninerec": 1}', b'{"ninerec": "x"}', b"\xff\xfe"]
)
def test_a_damaged_note_is_one_error_and_stays_as_it_is(home: Home, data: bytes) -> None:
    path = home.raw / "terms.json"
    path.parent.mkdir()
    path.write_bytes(data)
    for ask in (lambda: accepted(home, TERMS), lambda: accept(home, TERMS, "asked")):
        with pytest.raises(
            CheckFailed, match=r"is damaged; move it away .* ninerec download"
        ) as told:
            ask()
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)
    assert path.read_bytes() == data


def test_a_kill_while_it_is_written_leaves_the_note_of_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(home, TERMS, "asked")
    before = (home.raw / "terms.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            accept(home, replace(TERMS, key="mind"), "asked")
    assert (home.raw / "terms.json").read_bytes() == before
    assert leftovers(home.root) == []
    assert [path.name for path in home.raw.iterdir()] == ["terms.json"]


# Under which terms a file is held


def terms_in_journal(home: Home) -> dict[str, str]:
    with journal(home) as connection, closing(connection.cursor()) as cursor:
        return dict(cursor.execute("select role, terms from files where dataset = ?", (NAME,)))


def test_what_was_imported_is_held_by_the_user_and_covers_under_the_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Calm(tmp_path, monkeypatch, mapped()) as world:
        take_in(world.home, tmp_path / "tables")
        world.download()
        (entry,) = world.entries
        assert terms_in_journal(world.home) == {
            "interactions": "held by the user",
            "items": "held by the user",
            "covers": hash_of_terms(entry.terms),
        }


FILES = """
[[sources]]
assets = ["interactions"]
kind = "http"
url = "https://files.example/alpha_pair.csv"
file = "alpha_pair.csv"

[[sources]]
assets = ["titles"]
kind = "http"
url = "https://files.example/alpha_item.csv"
file = "alpha_item.csv"
"""


def test_release_files_that_were_downloaded_are_held_under_the_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_release(tmp_path / "published")
    files = {f"files.example/{path.name}": path for path in folder.iterdir()}
    with Calm(tmp_path, monkeypatch, mapped(), files=files) as world:
        toml = world.catalog / f"{NAME}.toml"
        toml.write_text(toml.read_text("utf-8") + FILES)
        assert world.download(parts=EVERY).exit_code == 0
        (entry,) = world.entries
        roles = ("covers", "interactions", "items")
        assert terms_in_journal(world.home) == dict.fromkeys(roles, hash_of_terms(entry.terms))
