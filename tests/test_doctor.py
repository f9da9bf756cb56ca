"""`ninerec doctor` says what is there, what is not and the way out; modules that hide ours are found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from releases import say

from ninerec import doctor
from ninerec.main import main
from ninerec_data.shadows import PACKAGES, shadow_behind, shadows, warn_of_loaders

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = (
    *("ninerec", "python", "dependencies", "torch", "torchvision"),
    *("extras", "home", "disk", "prepared", "catalog", "modules"),
)
Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Checks = dict[str, list[SimpleNamespace]]


@pytest.fixture(autouse=True)
def _plain(home: Path, monkeypatch: Patch) -> None:
    """A home of the test's own and no catalog but the package's."""
    monkeypatch.delenv("NINEREC_CATALOG", raising=False)


def examined(capsys: Captured, *words: str, code: int = 0) -> Checks:
    """Name -> its checks, from the JSON; `ok` there and the exit code say the same."""
    said = say(capsys, "doctor", "--json", *words)
    document = json.loads(said.out)
    assert (said.code, document["ok"], said.err) == (code, code == 0, "")
    checks: Checks = {}
    for check in document["checks"]:
        checks.setdefault(check.pop("name"), []).append(SimpleNamespace(**check))
    return checks


def only(checks: list[SimpleNamespace], level: str) -> SimpleNamespace:
    (check,) = checks
    assert check.level == level
    return check


def module_of(folder: Path, name: str, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return folder


def test_healthy_installation_has_no_problem(capsys: Captured) -> None:
    import torch

    checks = examined(capsys)
    assert tuple(checks) == NAMES
    assert only(checks["ninerec"], "ok").found == f"{version('ninerec')} in {REPOSITORY}"
    assert f"numpy {version('numpy')}, " in only(checks["dependencies"], "ok").found
    assert "pytest" not in checks["dependencies"][0].found  # of an extra
    assert only(checks["torch"], "ok").found.startswith(f"{torch.__version__}, built ")
    assert only(checks["torchvision"], "ok").found.endswith("fits torch")
    said = say(capsys, "doctor")
    assert said.code == 0
    rows = [line.split()[:2] for line in said.out.splitlines()]
    assert rows == [[check.level, name] for name in NAMES for check in checks[name]]


def test_problem_ends_with_1_and_its_line_shows_the_way_out(
    capsys: Captured, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["polars>=2.0", "nosuch-thing>=1.5"])
    said = say(capsys, "doctor")
    assert said.code == 1
    (line,) = [line for line in said.out.splitlines() if line.startswith("problem")]
    assert line.endswith("nosuch-thing MISSING; run: pip install 'nosuch-thing>=1.5'")


def test_dependency_that_is_too_old_is_a_problem(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["one>=2.10", "two>=2.9.1", "three>=3"])
    held = {"one": "2.9.4", "two": "2.10.0+cu128", "three": "3.0rc1"}
    monkeypatch.setattr(doctor, "_version", lambda name: held.get(name, "1"))
    bad = only(examined(capsys, code=1)["dependencies"], "problem")
    assert bad.found == "one 2.9.4, two 2.10.0+cu128, three 3.0rc1"
    assert bad.way_out == "run: pip install 'one>=2.10'"


def test_ninerec_that_is_not_installed_is_a_problem(capsys: Captured, monkeypatch: Patch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    bad = only(examined(capsys, code=1)["ninerec"], "problem")
    assert (bad.found.split(":")[0], "pip install" in bad.way_out) == ("PackageNotFoundError", True)


def test_torchvision_of_another_torch_is_a_problem(
    capsys: Captured, monkeypatch: Patch, tmp_path: Path
) -> None:
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(str(module_of(tmp_path / "other", "torchvision", text)))
    bad = only(examined(capsys, code=1)["torchvision"], "problem")
    assert bad.found == "RuntimeError: operator torchvision::nms does not exist"
    assert bad.way_out.startswith("run: pip install --force-reinstall torch torchvision")


def test_devices_are_named_and_what_torch_warns_of_is_a_note(
    capsys: Captured, monkeypatch: Patch
) -> None:
    import torch

    def count() -> int:
        warnings.warn("CUDA initialization: the driver\nis too old", stacklevel=1)
        return 1

    facts = SimpleNamespace(name="Card 9", total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: facts)
    card, warned = examined(capsys)["torch"]
    assert card.found.endswith("CUDA devices: Card 9 24.0 GB")
    assert (warned.level, warned.found) == ("note", "CUDA initialization: the driver is too old")


def test_extra_that_is_absent_is_a_note(capsys: Captured, monkeypatch: Patch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "lmdb" else real(name))
    absent = next(c for c in examined(capsys)["extras"] if c.found == "no lmdb")
    assert absent.level == "note"
    assert "pip install 'ninerec[export]'" in absent.way_out


def test_home_is_told_with_its_origin_and_is_not_made(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    def told(*words: str) -> str:
        checks = examined(capsys, *words)
        assert only(checks["disk"], "ok").found.startswith(f"{tmp_path} can be written, ")
        return str(only(checks["home"], "ok").found)

    assert told() == f"{home} (from $NINEREC_HOME)"
    assert told("--home", str(tmp_path / "x")) == f"{tmp_path / 'x'} (from --home)"
    monkeypatch.delenv("NINEREC_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert told() == f"{tmp_path / 'ninerec'} (from the default)"
    assert list(tmp_path.iterdir()) == []


def test_home_that_cannot_be_written_is_a_problem(capsys: Captured, home: Path) -> None:
    home.write_text("a file")
    bad = only(examined(capsys, code=1)["disk"], "problem")
    assert bad.found.startswith("NotADirectoryError: ")
    assert "--home DIR" in bad.way_out


def test_little_space_is_a_note(capsys: Captured, monkeypatch: Patch) -> None:
    little = SimpleNamespace(free=4 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: little)
    said = only(examined(capsys)["disk"], "note")
    assert said.found.endswith("4.0 GB free")


def test_prepared_datasets_are_told_with_their_sizes(capsys: Captured, home: Path) -> None:
    for name, size in (("one", 1500), ("two", 20)):
        (home / "prepared" / name).mkdir(parents=True)
        (home / "prepared" / name / "manifest.json").write_bytes(b"x" * size)
    (home / "prepared" / "half").mkdir()
    assert only(examined(capsys)["prepared"], "ok").found == "one 1.5 kB, two 20 B"


def test_catalog_file_that_cannot_be_read_is_a_problem(
    capsys: Captured, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.toml").write_text("title = ")
    monkeypatch.setenv("NINEREC_CATALOG", str(tmp_path / "own"))
    bad = only(examined(capsys, code=1)["catalog"], "problem")
    assert str(tmp_path / "own" / "mine.toml") in bad.found


def test_module_beside_a_script_is_found_before_ours(tmp_path: Path) -> None:
    assert shadows(first=module_of(tmp_path, "unrelated")) == []
    (found,) = shadows(first=module_of(tmp_path, "baselines"))
    assert (found.name, found.theirs) == ("baselines", str(tmp_path / "baselines.py"))
    assert found.ours == str(REPOSITORY / "baselines" / "__init__.py")


def test_folder_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "loaders").mkdir()
    (tmp_path / "loaders" / "mine.py").touch()
    assert shadows(first=tmp_path) == []


def test_another_whole_copy_of_ninerec_hides_nothing_of_itself(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert shadows(first=tmp_path) == []


def test_ours_behind_a_link_is_ours(tmp_path: Path) -> None:
    (tmp_path / "loaders").symlink_to(REPOSITORY / "loaders")
    assert shadows(first=tmp_path) == []


def test_module_is_judged_by_where_it_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.delitem(sys.modules, "downloader", raising=False)
    monkeypatch.syspath_prepend(str(module_of(tmp_path, "downloader", "raise SystemExit")))
    assert [found.name for found in shadows()] == ["downloader"]
    assert "downloader" not in sys.modules


def test_loaded_module_is_judged_whatever_the_path_says(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "loaders", ModuleType("loaders"))
    (found,) = shadows("loaders")
    assert found.theirs == "<module 'loaders'>"
    assert shadows("downloader") == []


@pytest.mark.parametrize(
    "statement", ["from loaders import Sequences", "import loaders.batch", "loaders.Sequences"]
)
def test_error_is_laid_to_the_loaded_module_that_hides_ours(
    monkeypatch: Patch, statement: str
) -> None:
    theirs = ModuleType("loaders")
    monkeypatch.setitem(sys.modules, "loaders", theirs)
    monkeypatch.delitem(sys.modules, "loaders.batch", raising=False)
    with pytest.raises((ImportError, AttributeError)) as caught:
        exec(statement, {"loaders": theirs})
    found = shadow_behind(caught.value)
    assert found is not None
    assert (found.name, found.theirs) == ("loaders", "<module 'loaders'>")


def test_error_is_laid_to_a_module_that_is_not_loaded_only_where_it_is_named(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.delitem(sys.modules, "loaders", raising=False)
    monkeypatch.syspath_prepend(str(module_of(tmp_path, "loaders")))
    assert shadow_behind(ImportError("x", name="loaders.batch")) is not None
    assert shadow_behind(ImportError("x", name="polars")) is None
    assert shadow_behind(AttributeError("x")) is None


def test_fault_of_ours_stays_one_where_nothing_is_hidden(
    capsys: Captured, monkeypatch: Patch
) -> None:
    def broken(given: str | None) -> None:
        raise AttributeError("ours")

    monkeypatch.setattr(doctor, "_checks", broken)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("internal error: AttributeError: ours; ")


def test_loaders_of_ours_are_not_warned_of() -> None:
    import loaders

    assert Path(loaders.__file__).parent == REPOSITORY / "loaders"
    warn_of_loaders()  # warnings are errors here


def test_import_of_ninerec_data_looks_for_no_shadow() -> None:
    statement = "import sys, ninerec_data; sys.exit('ninerec_data.shadows' in sys.modules)"
    subprocess.run([sys.executable, "-c", statement], cwd=REPOSITORY, check=True)
