"""Croissant 1.1: the hf folder and croissant.json, which describes its files, tables and terms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.dataset import Dataset
from ninerec_data.export import facts_of, hf
from ninerec_data.files import canonical_json
from ninerec_data.manifest import SCHEMA, file_facts

__all__ = ["write"]

_MIME = {".parquet": "application/x-parquet", ".tar": "application/x-tar", ".md": "text/markdown"}
# The context that Croissant 1.1 prescribes, word for word.
_WORDS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet "
    "format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    **{word: f"cr:{word}" for word in _WORDS.split()},
}


def write(ds: Dataset, folder: Path) -> None:
    """Write the hf folder, then croissant.json over every file of it."""
    hf.write(ds, folder)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    terms, (title, bibtex) = ds.manifest["terms"], facts_of(ds)
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": ds.name,
        "description": f"{title}; protocol {ds.protocol.name} {ds.protocol.hash}. {terms['text']}",
        "version": f"{SCHEMA}.0.0+{ds.protocol.split.hash}",
        "license": terms["url"] or terms["text"],
        "conditionsOfAccess": terms["text"],
        "inLanguage": list(ds.languages),
        "distribution": [
            _file(name, facts["size"], facts["sha256"])
            for name, facts in file_facts(folder, names).items()
        ],
        "recordSet": [_record_set(name, frame) for name, frame in hf.tables_of(ds).items()],
    }
    if terms["url"]:
        described |= {"url": terms["url"], "usageInfo": terms["url"]}
    if bibtex:
        authors = [{"@type": "sc:Person", "name": n} for n in _of(bibtex, "author").split(" and ")]
        described |= {"citeAs": bibtex, "datePublished": _of(bibtex, "year"), "creator": authors}
    (folder / "croissant.json").write_text(canonical_json(described), encoding="utf-8")


def _of(bibtex: str, key: str) -> str:
    """A field of the first entry: what the paper says stands for the dataset."""
    found = re.search(rf"\b{key}\s*=\s*[{{\"]*([^}}\"]*)", bibtex)
    return found[1].strip() if found else ""


def _file(name: str, size: int, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": _MIME.get(Path(name).suffix, "text/plain"),
        "sha256": digest.removeprefix("sha256:"),
    }


def _record_set(table: str, frame: pl.DataFrame) -> dict[str, Any]:
    fields = []
    for name, kind in frame.schema.items():
        listed = isinstance(kind, pl.List)
        field = {
            "@type": "cr:Field",
            "@id": f"{table}/{name}",
            "name": name,
            "dataType": _data_type(kind.inner if isinstance(kind, pl.List) else kind),
            "source": {
                "fileObject": {"@id": f"{table}/{table}.parquet"},
                "extract": {"column": name},
            },
        }
        fields.append(field | ({"isArray": True, "arrayShape": "-1"} if listed else {}))
    return {"@type": "cr:RecordSet", "@id": table, "name": table, "field": fields}


def _data_type(kind: Any) -> str:
    if kind.is_numeric():
        return "sc:Integer" if kind.is_integer() else "sc:Float"
    return "sc:Boolean" if kind == pl.Boolean else "sc:Text"
