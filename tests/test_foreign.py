"""A project of somebody else, outside the repository, on the built wheel; also where it has a `loaders/` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from covered import CATALOG, NAME, item_id, write_covers

from ninerec_data.shadows import PACKAGES
from ninerec_data.synthetic import write_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
USERS, ITEMS = 100, 40
WITH_COVER = [n for n in range(1, ITEMS + 1) if n % 4]

MODEL = '''\
"""A model of the project's own: words and a coarse picture of each item, a GRU over the sequence."""

import torch
from torch.nn.functional import adaptive_avg_pool2d, softplus


class Mine(torch.nn.Module):
    def __init__(self, words, dim=16):
        super().__init__()
        self.word = torch.nn.Embedding(words, dim)
        self.picture = torch.nn.Linear(48, dim)
        self.user = torch.nn.GRU(dim, dim, batch_first=True)

    def items(self, batch):
        text = (self.word(batch.tokens) * batch.token_mask[..., None]).sum(1)
        pixels = adaptive_avg_pool2d(batch.pixels / 127.5 - 1, 4).flatten(1)
        known = text + self.picture(pixels) * batch.has_image[:, None]
        return torch.cat([known.new_zeros(1, known.shape[1]), known])

    def forward(self, batch):
        table, mask = self.items(batch), batch.mask[:, 1:] & batch.mask[:, :-1]
        states, _ = self.user(table[batch.inverse[:, :-1]])
        liked = (states * table[batch.inverse[:, 1:]]).sum(-1)[mask]
        other = (states * table[batch.negatives]).sum(-1)[mask]
        return (softplus(-liked) + softplus(other)).mean()
'''
TRAIN = """\
import copy, json, sys

import loaders
import ninerec_data
import torch
from model import Mine

ds     = ninerec_data.open_dataset("drawn")
train  = loaders.Sequences(ds, part="train", content=("text", "image"), tokenizer=sys.argv[1])
loader = loaders.make_loader(train, batch_size=64, seed=0)

torch.manual_seed(0)
model = Mine(words=2000)


def step(batch):
    loss = model(batch)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for weight, slope in zip(model.parameters(), slopes):
            weight -= 0.03 * slope
    return loss.item()


losses = [step(batch) for epoch in range(3) for batch in loader.at(epoch, 0)]
whole = []
for batch in loader.at(3, 0):
    whole.append(step(batch))
    if len(whole) == 1:
        kept = copy.deepcopy(model.state_dict())
model.load_state_dict(kept)
resumed = [step(batch) for batch in loader.at(3, 1)]

ids, users = ds.item_ids, ds.users["user_id"].to_pylist()
seen = {
    users[user]: [ids[batch.unique_items[at - 1] - 1] for at in row[row > 0]]
    for user, row in zip(batch.users.tolist(), batch.inverse)
}
import baselines, downloader, ninerec

modules = (ninerec_data, downloader, loaders, baselines, ninerec)
print(json.dumps({
    "files": [module.__file__ for module in modules],
    "losses": losses, "whole": whole, "resumed": resumed, "seen": seen,
    "pixels": [*batch.pixels.shape, str(batch.pixels.dtype)],
    "covered": [ids[item - 1] for item in batch.unique_items[batch.has_image]],
    "shown": [ids[item - 1] for item in batch.unique_items],
}))
"""
OPENS = """\
import ninerec_data, loaders
for _ in range(2):
    ds = ninerec_data.open_dataset("drawn")
ds = ninerec_data.open_dataset("drawn")
print(ds.n_items)
"""


def history(user: int) -> list[str]:
    return [item_id(1 + (7 * user + 3 * step) % ITEMS) for step in range(6 + user % 3)]


@dataclass(frozen=True)
class Project:
    """folder: of somebody else; site: where the wheel is installed; env: finds it there, and the data."""

    folder: Path
    site: Path
    env: dict[str, str]

    def run(self, *words: str | Path, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        place = {"cwd": at or self.folder, "env": self.env}
        return subprocess.run(words, **place, capture_output=True, text=True, check=False)

    def python(
        self, *words: str | Path, at: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *words, at=at)

    @property
    def command(self) -> Path:
        """The console script."""
        return self.site / "bin" / "ninerec"

    def named(self, theirs: Path) -> str:
        """How a message says what `theirs` hides."""
        name = theirs.parent.name
        ours = self.site / name / "__init__.py"
        return f"`{name}` is imported from {theirs}, which hides ninerec's {ours}; rename the first"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel, built from this source, is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY)
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    pip = ("pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    into = ("--no-compile", "--target", folder / "site", wheel)
    subprocess.run([sys.executable, "-m", *pip, *into], check=True, capture_output=True)
    return folder / "site"


@pytest.fixture(scope="module")
def project(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, with a dataset of its own that the wheel's own command has prepared."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "catalog").mkdir()
    (folder / "catalog" / f"{NAME}.toml").write_text(CATALOG)
    write_covers(folder / "release" / "covers", WITH_COVER)
    rows = [f'u{user},"{item}"' for user in range(USERS) for item in history(user)]
    titles = [f"Title {n} of {n % 5} and {n % 3}" for n in range(1, ITEMS + 1)]
    items = [f'"{item_id(n)}",{title}' for n, title in enumerate(titles, 1)]
    for name, lines in {
        "interactions": ["user_id,item_id", *rows],
        "items": ["item_id,title_en", *items],
    }.items():
        (folder / "release" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    write_tokenizer(folder / "tokenizer", titles)
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    own = {
        "NINEREC_HOME": folder / "home",
        "NINEREC_CATALOG": folder / "catalog",
        "PYTHONPATH": site,
    }
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    made = Project(
        folder, site, env | {k: str(v) for k, v in own.items()} | {"OMP_NUM_THREADS": "1"}
    )
    done = made.run(made.command, "prepare", NAME, "--from", folder / "release")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with a `loaders/` of its own, which says so when it is run."""
    return crowd(tmp_path, "loaders")


def crowd(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("print('theirs is run')\n")
    return folder


def test_foreign_project_trains_and_resumes_on_the_installed_wheel(project: Project) -> None:
    done = project.python("train.py", "tokenizer")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [Path(file).parent for file in said["files"]] == [project.site / p for p in PACKAGES]
    assert len(said["losses"]) == 6
    assert sum(said["losses"][-2:]) < 0.9 * sum(said["losses"][:2])
    assert said["resumed"] == said["whole"][1:]
    assert said["seen"].items() <= {f"u{n}": history(n)[:-2] for n in range(USERS)}.items()
    assert len(said["seen"]) in (64, USERS - 64)
    assert said["pixels"] == [len(said["shown"]), 3, 224, 224, "torch.uint8"]
    assert said["covered"] == [i for i in said["shown"] if i in set(map(item_id, WITH_COVER))]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loaders", ("train", "--dataset", NAME)),
        ("baselines", ("evaluate", "a-run")),
        ("downloader", ("download", NAME, "--dry-run")),
    ],
)
def test_verb_of_the_module_form_says_what_hides_what(
    project: Project, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    done = project.python("-m", "ninerec", *words, at=crowd(tmp_path, name))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {project.named(tmp_path / name / '__init__.py')}")
    assert "run `ninerec` in place of `python -m ninerec`" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ("" if name == "loaders" else "theirs is run\n")


def test_verb_that_needs_no_hidden_module_runs_all_the_same(
    project: Project, crowded: Path
) -> None:
    done = project.python("-m", "ninerec", "stats", NAME, "--json", at=crowded)
    assert (done.returncode, json.loads(done.stdout)["users"]) == (0, USERS)


def test_import_of_baselines_says_what_hides_the_loaders(project: Project, crowded: Path) -> None:
    done = project.python("-c", "import baselines", at=crowded)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {project.named(crowded / 'loaders' / '__init__.py')}")
    assert done.stdout == ""


def test_opening_a_dataset_warns_once_of_loaders_that_are_not_ours(
    project: Project, crowded: Path
) -> None:
    (crowded / "script.py").write_text(OPENS)
    done = project.python("script.py", at=crowded)
    assert (done.returncode, done.stdout) == (0, f"theirs is run\n{ITEMS}\n")
    told = f"{crowded / 'script.py'}:3: RuntimeWarning: "
    assert done.stderr.startswith(told + project.named(crowded / "loaders" / "__init__.py"))
    assert done.stderr.count("RuntimeWarning") == 1


def test_doctor_says_what_a_script_of_the_folder_would_import(
    project: Project, crowded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where torch is broken, as it may be when somebody asks."""
    broken = tmp_path_factory.mktemp("broken")
    (broken / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open')\n")
    path = os.pathsep.join([str(project.site), str(broken)])
    sick = replace(project, env=project.env | {"PYTHONPATH": path})
    done = sick.run(project.command, "doctor", "--json", at=crowded)
    assert done.returncode == 1
    checks = {check.pop("name"): check for check in json.loads(done.stdout)["checks"]}
    bad = [name for name, check in checks.items() if check["level"] == "problem"]
    assert bad == ["torch", "torchvision", "modules"]
    assert checks["modules"]["found"].startswith(project.named(crowded / "loaders" / "__init__.py"))
    assert checks["torch"]["found"] == "OSError: libcudart.so.12: cannot open"
    assert str(project.site) in checks["ninerec"]["found"]
    assert checks["prepared"]["found"].startswith(f"{NAME} ")


def test_command_does_not_look_into_the_folder_it_is_run_in(
    project: Project, tmp_path: Path
) -> None:
    words = ("download", NAME, "--dry-run", "--json")
    done = project.run(project.command, *words, at=crowd(tmp_path, "downloader"))
    assert done.returncode == 0, done.stderr
    assert "files" in json.loads(done.stdout)  # and no word of theirs
