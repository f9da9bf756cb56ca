"""The tables of the documents say what the code says: catalog, protocols, settings, columns, keys, verbs."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from toy import make_toy, varied

from baselines.config import Config, make_config
from ninerec import main as cli
from ninerec.options import figure
from ninerec_data.catalog_schema import DATASET_KEYS, FORMATS
from ninerec_data.cover_shards import INDEX_SCHEMA
from ninerec_data.protocol import PROTOCOLS, Protocol, Split, get_protocol

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"


@pytest.fixture(autouse=True)
def _package_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents tell of the built-in datasets only."""
    monkeypatch.delenv("NINEREC_CATALOG", raising=False)


def tables(path: Path) -> list[list[list[str]]]:
    """Every table of a document as rows of cells, the header first, the line of dashes left out."""
    found = re.findall(r"^\|.*\|\n\|[-:|]+\|\n(?:\|.*\|\n)*", path.read_text("utf-8"), re.MULTILINE)
    cut = re.compile(r"(?<!\\)\|")
    rows = [[cut.split(line)[1:-1] for line in table.splitlines()] for table in found]
    return [
        [[cell.strip() for cell in row] for n, row in enumerate(table) if n != 1] for table in rows
    ]


def table(path: Path, *head: str) -> list[list[str]]:
    """The rows below the header of the one table that has this header."""
    (found,) = [rows for rows in tables(path) if rows[0] == list(head)]
    return found[1:]


def plain(text: str) -> str:
    return text.strip("`")


def test_datasets_of_the_readme_are_those_that_list_shows(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["list", "--json"]) == 0
    figures = ("users", "items", "interactions")
    expected = [
        [
            f"`{entry['name']}`",
            *(figure((entry["published"] or {}).get(key)) for key in figures),
            ", ".join(entry["modalities"]) or "-",
            ", ".join(entry["languages"]) or "-",
            entry["access"],
        ]
        for entry in json.loads(capsys.readouterr().out)["datasets"]
    ]
    head = ("name", *figures, "modalities", "languages", "access")
    assert table(README, *head) == expected


def test_readme_and_reference_name_what_is_not_built() -> None:
    for document in (README, DOCS / "cli.md"):
        text = document.read_text("utf-8")
        assert [verb for verb in cli.NOT_BUILT if f"`{verb}`" not in text] == []


def test_results_of_the_readme_stand_between_their_marks() -> None:
    text = README.read_text("utf-8")
    assert re.search(r"<!-- results -->\n\n\| dataset \|.*\n\n<!-- /results -->", text, re.DOTALL)


def test_verbs_of_the_reference_are_those_of_the_program() -> None:
    rows = table(DOCS / "cli.md", "verb", "what it does")
    assert [plain(row[0]).split()[0] for row in rows] == list(cli.VERBS)


def test_hashes_of_the_documents_are_those_of_the_protocols() -> None:
    rows = table(DOCS / "protocol.md", "protocol", "`keep_last`", "protocol hash", "split hash")
    assert {plain(row[0]) for row in rows} == set(PROTOCOLS)
    for name, keep_last, protocol_hash, split_hash in rows:
        protocol = get_protocol(plain(name), keep_last=int(keep_last))
        assert (plain(protocol_hash), plain(split_hash)) == (protocol.hash, protocol.split.hash)


def test_fields_of_the_split_are_documented_with_their_defaults() -> None:
    rows = table(DOCS / "protocol.md", "field", "default", "meaning")
    said = {plain(row[0]): plain(row[1]) for row in rows}
    real = {spec.name: str(getattr(Split(), spec.name)) for spec in fields(Split)}
    assert said == {name: value.replace("None", "none") for name, value in real.items()}


def test_fields_of_the_protocol_are_documented() -> None:
    rows = table(DOCS / "protocol.md", "field", "`ninerec-2023`", "`strict`")
    said = {plain(row[0]) for row in rows}
    assert said == {f.name for f in fields(Protocol)} - {"name", "split"} | {"split.pool"}


def test_settings_are_documented_with_their_defaults() -> None:
    rows = table(DOCS / "models.md", "setting", "default", "meaning")
    real = {
        f"{section}.{key}": json.dumps(value)
        for section, values in Config().as_json().items()
        for key, value in values.items()
        if key != "split"
    }
    assert {plain(row[0]): plain(row[1]) for row in rows} == real


def test_presets_of_the_results_are_those_of_the_program() -> None:
    settings = ("model.dim", "train.lr", "train.batch_size", "train.patience")
    head = ("`model.dim`", "`train.lr`, `train.item_lr`", "`train.batch_size`", "`train.patience`")
    rows = table(DOCS / "results.md", "item encoder, objective", "dataset", *head, "from")
    assert len(rows) == 5
    for parts, datasets, *said, _ in rows:
        encoder, objective = re.findall(r"`(.+?)`", parts)
        asked = {"model.item_encoder": encoder, "model.objective": objective}
        for name in re.findall(r"`(.+?)`", datasets):
            real = make_config(options={**asked, "data.dataset": name}).as_json()
            values = [real[key.split(".")[0]][key.split(".")[1]] for key in settings]
            assert values == [float(value) for value in said]
            assert real["train"]["item_lr"] == real["train"]["lr"]


def test_keys_of_a_catalog_file_are_documented() -> None:
    rows = table(DOCS / "own-data.md", "key", "meaning")
    said = [plain(key.strip()) for row in rows for key in row[0].split(",")]
    assert sorted(said) == sorted(DATASET_KEYS)


def test_every_format_has_its_heading() -> None:
    text = (DOCS / "formats.md").read_text("utf-8")
    headings = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(FORMATS)


def test_columns_of_the_documents_are_those_of_a_prepared_dataset(tmp_path: Path) -> None:
    items, histories = varied()
    ds = make_toy(tmp_path, items, histories).open()
    said = [rows[1:] for rows in tables(DOCS / "data.md") if rows[0][1:2] == ["dtype"]]
    added = [name for name in INDEX_SCHEMA if name not in ds.items.column_names]
    of_index = pa.table({name: pa.array([], pa.string()) for name in added})
    real = (ds.items, ds.users, ds.interactions, of_index, ds.sequences, ds._split_items)
    for rows, made in zip(said, real, strict=True):
        names = [plain(row[0]).replace("<lang>", "en") for row in rows]
        assert names == made.column_names
        assert [row[1] for row in rows] == [str(kind) for kind in made.schema.types]
