"""The documents hold: their Python runs, their marked commands run, every command they show parses.

In README.md and docs/*.md each fenced `python` block is run, none is left out. In `bash` and `console`
blocks each `ninerec ...` line must parse; where the line above the fence is `<!-- run -->` it is run too
and must end with 0. One document is one story: its steps share a folder, a home and variables.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from ninerec import main as cli
from ninerec_data.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCE = re.compile(r"(<!-- run -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?ninerec +(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    language: str
    text: str
    line: int
    run: bool

    def commands(self) -> list[list[str]]:
        """The words after `ninerec`, one list per command."""
        if self.language not in ("bash", "console"):
            return []
        lines = COMMAND.findall(self.text.replace("\\\n", " "))
        return [shlex.split(line, comments=True) for line in lines]


def blocks(text: str) -> list[Block]:
    return [
        Block(
            language=match[2],
            text=match[3],
            line=text.count("\n", 0, match.start(3)) + 1,
            run=match[1] is not None,
        )
        for match in FENCE.finditer(text)
    ]


def run_story(document: Path) -> int:
    """Run a document's steps in order and return how many there were."""
    names: dict[str, object] = {"__name__": document.stem}
    steps = 0
    for block in blocks(document.read_text("utf-8")):
        if block.language == "python":
            # Empty lines in front give a traceback the document's own line numbers.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, document, "exec"), names)
            steps += 1
        for words in block.commands() if block.run else []:
            assert cli.main(words) == 0, f"{document.name}: ninerec {shlex.join(words)}"
            steps += 1
    return steps


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NINEREC_CATALOG", "")  # a story that sets it and fails must not leak it
    run_story(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_shows_only_commands_that_parse(document: Path) -> None:
    for block in blocks(document.read_text("utf-8")):
        for words in block.commands():
            assert parses(words), f"{document.name}: ninerec {shlex.join(words)}"


def parses(words: list[str]) -> bool:
    """Whether the console script would take these words; nothing is run."""
    if words[0] not in cli.VERBS:
        return words in (["--help"], ["--version"])
    try:
        cli.parse(words)
    except (UsageError, SystemExit) as stop:
        return isinstance(stop, SystemExit)  # --help
    return True


def test_readme_opens_with_two_commands() -> None:
    first = blocks((REPOSITORY / "README.md").read_text("utf-8"))[0]
    assert first.language in ("bash", "console")
    lines = [line for line in first.text.splitlines() if line.strip()]
    assert len(lines) == 2


def test_readme_names_the_test_command_of_the_ci() -> None:
    assert "make test" in (REPOSITORY / "README.md").read_text("utf-8")
    assert "\nmake test\n" in (REPOSITORY / ".ci" / "run").read_text("utf-8")


def test_citation_states_the_version_of_the_distribution() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {project['version']}\n" in citation


SAMPLE = """\
```bash
.venv/bin/ninerec list --json   # a comment
make demo
```
<!-- run -->
```console
$ ninerec stats \\
    bili_food
table
```
```python
x = 1
```
"""


def test_blocks_are_found_with_their_marks_and_lines() -> None:
    found = [(block.language, block.run, block.line) for block in blocks(SAMPLE)]
    assert found == [("bash", False, 2), ("console", True, 7), ("python", False, 12)]


def test_commands_lose_prompt_path_and_comment() -> None:
    assert [block.commands() for block in blocks(SAMPLE)] == [
        [["list", "--json"]],
        [["stats", "bili_food"]],
        [],
    ]


def test_story_shares_its_names_and_fails_where_a_block_fails(tmp_path: Path) -> None:
    story = tmp_path / "story.md"
    story.write_text("```python\nx = 1\n```\n```python\nassert x == 1\n```\n", "utf-8")
    assert run_story(story) == 2
    story.write_text("```python\nx = 1\nassert x == 2\n```\n", "utf-8")
    with pytest.raises(AssertionError):
        run_story(story)


def test_story_fails_where_a_marked_command_fails(tmp_path: Path) -> None:
    story = tmp_path / "story.md"
    story.write_text("<!-- run -->\n```bash\nninerec nonsense\n```\n", "utf-8")
    with pytest.raises(AssertionError, match="ninerec nonsense"):
        run_story(story)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("--version", True),
        ("list --json", True),
        ("list --help", True),
        ("list --nonsense", False),
        ("embed bili_food", False),
        ("nonsense", False),
    ],
)
def test_command_of_a_document_must_be_one_that_is_built(line: str, good: bool) -> None:
    assert parses(line.split()) is good
