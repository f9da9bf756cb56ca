"""Imports point down, never up, never sideways (DESIGN 2), and no package outgrows its share."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# package -> the packages it may import
BELOW = {
    "ninerec": {"baselines", "loaders", "downloader", "ninerec_data"},
    "baselines": {"loaders", "ninerec_data"},
    "loaders": {"ninerec_data"},
    "downloader": {"ninerec_data"},
    "ninerec_data": set(),
}
NETWORK = {"requests", "aiohttp", "socket", "http", "urllib.request", "urllib3"}
MODELS = {"torch", "torchvision", "transformers"}
# package -> what it must not import from elsewhere
BANNED = {
    "ninerec": NETWORK,
    "baselines": NETWORK,
    "loaders": NETWORK | {"polars", "transformers"},
    "downloader": MODELS,
    "ninerec_data": NETWORK | MODELS,
}
# package -> lines of code at most (without blank lines, comments and docstrings); 15,680 in all.
SHARE = {
    "ninerec": 2150,
    "baselines": 1850,
    "loaders": 880,
    "downloader": 3950,
    "ninerec_data": 6850,
}


def code_lines(source: str) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring alone."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as text, *_]:
                    documented.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    thin = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in thin | {tokenize.ENDMARKER}:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - documented)


def imported(source: str) -> set[str]:
    """Dotted names that a module imports, in functions too; its own package's relative ones left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
            case ast.Call(
                func=ast.Name(id=call) | ast.Attribute(attr=call),
                args=[ast.Constant(value=str(name)), *_],
            ) if call in ("import_module", "__import__"):
                names.add(name)
    return names


def faults(package: str, source: str) -> list[str]:
    """The imports of one module that its package may not have."""
    forbidden = set(BELOW) - BELOW[package] - {package} | BANNED[package]
    return sorted(
        name
        for name in imported(source)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    )


def modules(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found, f"{package} has no module"
    return found


@pytest.mark.parametrize("package", BELOW)
def test_package_imports_only_what_lies_below(package: str) -> None:
    bad = {
        str(path.relative_to(REPOSITORY)): wrong
        for path in modules(package)
        if (wrong := faults(package, path.read_text("utf-8")))
    }
    assert bad == {}


@pytest.mark.parametrize("package", SHARE)
def test_package_keeps_within_its_share_of_lines(package: str) -> None:
    lines = sum(code_lines(path.read_text("utf-8")) for path in modules(package))
    assert lines <= SHARE[package]


def test_code_lines_leave_out_blanks_comments_and_docstrings() -> None:
    assert code_lines('"""Doc.\n\nMore."""\n\n# why\nx = (\n    1\n)  # one\n') == 3


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("ninerec_data", "import loaders", ["loaders"]),
        ("ninerec_data", "def f():\n    from baselines.run import go", ["baselines.run"]),
        ("ninerec_data", "import torch.nn as nn", ["torch.nn"]),
        ("ninerec_data", "from urllib import request", ["urllib.request"]),
        ("ninerec_data", "import importlib\nimportlib.import_module('torch')", ["torch"]),
        ("loaders", "from downloader import fetch", ["downloader"]),
        ("downloader", "import loaders.batches", ["loaders.batches"]),
        ("loaders", "if TYPE_CHECKING:\n    import polars as pl", ["polars"]),
        ("baselines", "import ninerec.main", ["ninerec.main"]),
    ],
)
def test_checker_catches_a_forbidden_import(package: str, source: str, found: list[str]) -> None:
    caught = faults(package, source)
    assert set(found) <= set(caught)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("ninerec", "import baselines, loaders, ninerec_data"),
        ("ninerec_data", "from urllib.parse import quote\nfrom . import files\nimport polars"),
        ("loaders", "import torch\nimport torchvision_like\nfrom ninerec_data import Split"),
        ("downloader", "import requests, aiohttp\nfrom ninerec_data.home import Home"),
    ],
)
def test_checker_lets_an_allowed_import_pass(package: str, source: str) -> None:
    assert faults(package, source) == []
