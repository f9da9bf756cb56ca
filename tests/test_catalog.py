"""The catalog: every name is there, its facts are the published ones, and a user's mistake is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ninerec_data.catalog import aliases, catalog, find
from ninerec_data.errors import UsageError
from ninerec_data.files import sha256_file
from ninerec_data.protocol import Split

NAMES = [
    *("bili_500k", "bili_2m", "bili_food", "bili_dance", "bili_movie", "bili_cartoon"),
    *("bili_music", "ku", "qb", "tn", "dy"),
    *("mind_small", "mind_large", "mind_630k", "hm", "hm_500k", "hm_200k"),
    *("bili_400k", "bili_100k", "kwai_200k"),
    *("kuaishou_20k", "kuaishou_5k", "amazon_20k", "amazon_5k", "amazon_100k", "adressa_20k"),
    "adressa_5k",
    *("qqbrowser", "tn_mixed", "tn_video", "tn_text", "douyin", "pixelrec"),
    "microlens",
]

TABLE_1 = {
    "bili_500k": (500000, 138033, 7845805),
    "bili_2m": (2000000, 144146, 24497157),
    "bili_food": (6549, 1579, 39740),
    "bili_dance": (10715, 2307, 83392),
    "bili_movie": (16525, 3509, 115576),
    "bili_cartoon": (30300, 4724, 215443),
    "bili_music": (50664, 6038, 360177),
    "ku": (2034, 5370, 18519),
    "qb": (17722, 6121, 133664),
    "tn": (20211, 3334, 122576),
    "dy": (20398, 8299, 139834),
}

OWN = """
title = "Mine"
format = "ninerec"
options = { stem = "Mine" }
text = { en = ["title_en"] }
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog folder of the user's own, empty."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    monkeypatch.setenv("NINEREC_CATALOG", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _package_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NINEREC_CATALOG", raising=False)


def refused(own: Path, text: str) -> str:
    """The message for a catalog of the user's own with the one file mine.toml."""
    (own / "mine.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        catalog()
    assert str(own / "mine.toml") in str(caught.value)
    return str(caught.value)


def test_every_name_of_the_design_is_there_and_sorted() -> None:
    assert list(catalog()) == sorted(NAMES)


def test_bare_names_are_aliases() -> None:
    assert {name: alias.target for name, alias in aliases().items()} == {
        "adressa": "adressa_20k",
        "amazon": "amazon_20k",
        "bili": "bili_400k",
        "bili_warm20": "bili_500k",
        "bili_warm50": "bili_500k",
        "kwai": "kwai_200k",
        "mind": "mind_small",
    }


def test_a_warm_alias_is_a_split_of_its_dataset() -> None:
    entry, split = find("bili_warm20")
    assert (entry.name, dict(split)) == ("bili_500k", {"warm": 20})
    assert find("bili_warm50")[1] == {"warm": 50}


@pytest.mark.parametrize("name", NAMES)
def test_split_defaults_are_fields_of_split(name: str) -> None:
    entry = catalog()[name]
    assert Split(keep_last=entry.keep_last, **entry.split).keep_last == entry.keep_last


@pytest.mark.parametrize("name", TABLE_1)
def test_ninerec_figures_are_those_of_table_1(name: str) -> None:
    published = catalog()[name].published
    assert published is not None
    assert (published.users, published.items, published.interactions) == TABLE_1[name]
    assert (published.scope, published.source) == ("store", "NineRec Table 1")


def test_amazon_figures_are_of_the_split_and_only_the_items_exact() -> None:
    published = catalog()["amazon_20k"].published
    assert published is not None
    assert published.as_json() == {
        "users": "20K",
        "items": 14348,
        "interactions": "129K",
        "scope": "split",
        "source": "MoRec preprint Table 14",
    }


def test_thirteen_are_kept_for_morecs_hm_bili_and_amazon_only() -> None:
    kept = {name: entry.keep_last for name, entry in catalog().items()}
    thirteen = {"hm_500k", "bili_400k", "amazon_20k", "amazon_5k"}
    assert kept == {name: 13 if name in thirteen else 23 for name in NAMES}


def test_a_datasets_own_key_wins_over_its_release() -> None:
    timed = {n for n, e in catalog().items() if e.release == "ninerec-downstream" and e.timestamps}
    assert timed == {"bili_food", "bili_dance", "bili_movie", "bili_cartoon", "bili_music"} | {
        "ku",
        "dy",
    }


def test_what_was_never_public_is_asked_for() -> None:
    asked = {name for name, entry in catalog().items() if entry.access == "request"}
    assert asked == {
        *("qqbrowser", "tn_mixed", "tn_video", "tn_text", "douyin", "kwai_200k"),
        *("kuaishou_20k", "kuaishou_5k", "amazon_5k", "amazon_100k", "bili_100k"),
        *("adressa_20k", "adressa_5k"),
    }
    for name in asked:
        assert any(source.kind == "request" and source.note for source in catalog()[name].sources)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete(name: str) -> None:
    entry = catalog()[name]
    assert entry.title
    assert entry.platform
    assert entry.behaviour or entry.release in ("transrec", "morec-unpublished")
    assert set(entry.modalities) <= {"text", "image"}
    assert entry.modalities
    assert set(entry.text) == set(entry.languages)
    assert bool(entry.text) == ("text" in entry.modalities)
    assert entry.terms.url.startswith("https://")
    assert entry.published
    assert entry.published.source
    assert all(source.url.startswith("https://") for source in entry.sources)
    assert "interactions" in {source.asset for source in entry.sources}


@pytest.mark.parametrize("name", NAMES)
def test_bibtex_is_well_formed(name: str) -> None:
    entry = catalog()[name]
    assert entry.bibtex.count("@") == len(entry.papers) > 0
    assert entry.bibtex.count("{") == entry.bibtex.count("}")


def test_ninerec_comes_from_its_two_drive_files_and_the_preview_mapping() -> None:
    def urls(name: str) -> list[str]:
        return [source.url for source in catalog()[name].sources if source.asset == "mapping"]

    mapping = "https://raw.githubusercontent.com/anonymous-ninerec/NineRec/main/Downloader/ninerec_item_urls.csv"
    drive = "https://drive.google.com/file/d/{}/view"
    assert urls("bili_2m") == [drive.format("1fR5XB-dC0CDsyZ4BvtUJJn7i3OnWJa-9"), mapping]
    assert urls("qb") == [drive.format("15RlthgPczrFbP4U7l6QflSImK5wSGP5K"), mapping]


def test_sources_of_one_file_stand_in_the_order_they_are_tried() -> None:
    train = [
        source.url.split("/")[2]
        for source in catalog()["mind_small"].sources
        if source.asset == "titles" and source.file == "MINDsmall_train.zip"
    ]
    assert train == ["huggingface.co", "recodatasets.z20.web.core.windows.net"]


def test_checksums_are_those_of_the_published_files(shared_data: Path) -> None:
    known = {
        file.name: file
        for entry in catalog().values()
        for file in entry.files
        if file.sha256 is not None
    }
    paths = {path.name: path for path in shared_data.rglob("*") if path.name in known}
    assert set(paths) == {
        *("Bili_Food_item.csv", "Bili_Dance_item.csv", "QB_behaviour.tsv", "hm_50w_items.tsv"),
        *("amazon_2w_users.tsv", "amazon_2w_items.tsv", "Adressa_news_base.tsv"),
    }
    for name, path in paths.items():
        assert (known[name].size, known[name].sha256) == (path.stat().st_size, sha256_file(path))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find("bili_fod")
    assert str(caught.value) == (
        "unknown dataset 'bili_fod'; did you mean 'bili_food'? `ninerec list` shows every name"
    )


def test_a_name_like_no_other_is_sent_to_the_list() -> None:
    with pytest.raises(UsageError, match=r"^unknown dataset 'zzzzzz'\. `ninerec list` shows"):
        find("zzzzzz")


def test_the_users_own_folder_adds_datasets(own: Path) -> None:
    (own / "mine.toml").write_text(OWN + "[published]\nusers = 3\nitems = '2K'\n")
    entry = find("mine")[0]
    assert (entry.title, entry.release, entry.keep_last) == ("Mine", "mine", 23)
    assert (entry.languages, entry.text) == (("en",), {"en": ("title_en",)})
    assert entry.published is not None
    assert (entry.published.users, entry.published.items) == (3, "2K")
    assert list(catalog()) == sorted([*NAMES, "mine"])


def test_a_built_in_name_cannot_be_taken(own: Path) -> None:
    (own / "bili_food.toml").write_text(OWN)
    with pytest.raises(UsageError, match="'bili_food' is a built-in name; rename the file"):
        catalog()


def test_an_alias_cannot_be_taken(own: Path) -> None:
    (own / "mind.toml").write_text(OWN)
    with pytest.raises(UsageError, match="'mind' is a built-in name"):
        catalog()


def test_an_unknown_key_is_told_the_nearest(own: Path) -> None:
    assert refused(own, OWN + 'plattform = "x"').endswith(
        "unknown key 'plattform'; did you mean 'platform'?"
    )


def test_an_unknown_key_in_a_table_is_named_in_full(own: Path) -> None:
    said = refused(own, OWN + "[published]\nuser = 3\n")
    assert said.endswith("unknown key 'published.user'; did you mean 'users'?")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('keep_last = "13"', "'keep_last' is '13'; expected whole number"),
        ("keep_last = true", "'keep_last' is True; expected whole number"),
        ("timestamps = 1", "'timestamps' is 1; expected true or false"),
        ('modalities = "text"', "'modalities' is 'text'; expected list of texts"),
        ('role = "sorce"', "did you mean 'source'?"),
        ("split = { wram = 20 }", "unknown key 'split.wram'; did you mean 'warm'?"),
        ('terms = "nonerec"', "'terms' is 'nonerec', which _terms.toml lacks; did you mean"),
        ('papers = ["ninrec"]', "'papers' names 'ninrec', which _papers.toml lacks; did you mean"),
        ("files = [{ name = 'a' }]", "the key 'files[0].asset' is missing; it must be one of"),
        (
            "files = [{ name = 'a', asset = 'titles', sha256 = 'abc' }]",
            "'files[0].sha256' is 'abc'; expected 64 hex digits",
        ),
        (
            "sources = [{ assets = ['title'], kind = 'http', url = 'https://x' }]",
            "'sources[0].assets' is 'title'; expected one of",
        ),
        ("published = { users = 1.5 }", "'published.users' is 1.5; expected whole number or"),
        ('name = "yours"', "'name' is 'yours'; expected 'mine', the name of the file"),
        ("title = ", "cannot read the catalog file"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(own: Path, line: str, said: str) -> None:
    kept = [row for row in OWN.splitlines() if not row.startswith(line.split(" =")[0] + " =")]
    assert said in refused(own, "\n".join([*kept, line]))


@pytest.mark.parametrize("release", ["../x", "a/b", "/x", "..", "", ".hidden"])
def test_a_release_that_is_no_folder_name_is_refused(own: Path, release: str) -> None:
    said = refused(own, f'title = "T"\nformat = "generic"\nrelease = "{release}"\n')
    assert f"'release' is '{release}'; expected folder name" in said


def test_a_missing_format_is_named(own: Path) -> None:
    said = refused(own, 'title = "Mine"')
    assert "the key 'format' is missing; it must be one of ninerec, morec," in said


def test_a_catalog_that_is_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NINEREC_CATALOG", "/nowhere/at/all")
    with pytest.raises(UsageError, match=r"\$NINEREC_CATALOG is '/nowhere/at/all', which is no"):
        catalog()


def test_reading_the_catalog_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ninerec_data.catalog import catalog; assert 'tomllib' in sys.modules\n"
        "catalog()\n"
        "print(*sorted({'polars', 'pyarrow', 'numpy', 'torch', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
