"""The demo's data: one source and two targets drawn from a seed, with a taste that lies in the content.

Every item has a subject, a style and a mood, which show in its titles (several words stand for each)
and in its cover (shape and number; colour; pattern). A user's taste is one such triple; it drifts along
the same rings in all three, and the next item is drawn near it. Many items are launched in the last
days, hence cold or new in a leave-one-out split: content predicts them, ids cannot.

Flaws of the published releases, on a small scale (PAPERS_AND_CODE 1.1): in each dataset an item without
titles, one that only the interactions name, one that nobody chose; commas, quotes and emoji in titles;
an item whose id is 0; equal timestamps inside a sequence.

It is published as the real ones are: an archive with the tables and a mapping, and each item's cover and title behind
a page or an address of a picture. Of some items that is gone, and a backup holds half of them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ninerec_data.files import atomic_write, canonical_json, staged_folder, sweep

__all__ = ["SUITE", "write_suite", "write_tokenizer"]

Rng = np.random.Generator
Ints = NDArray[np.int64]
SUITE = ("demo_source", "demo_food", "demo_dance")
HOUR, DAY = 3600, 86_400
END = 1_656_633_600  # 2022-07-01 UTC: the last moment of every dataset
COVER = (320, 180)
HOME = "https://ninerec-demo.example"  # where the suite is published
GONE_EVERY = 12  # items, of which one is gone; the backup holds every other of those
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0-4

# Three English and three Chinese words for each value of an attribute; any of them may stand for it.
# fmt: off
SUBJECTS = (
    ("fire flame blaze", "火焰 烈火 炉火"), ("moon lunar moonlit", "月亮 月光 明月"),
    ("river stream brook", "小河 江水 溪流"), ("snow frost winter", "白雪 冰霜 冬日"),
    ("flower blossom petal", "鲜花 花朵 花瓣"), ("forest woods jungle", "森林 树林 丛林"),
    ("wind breeze gale", "清风 微风 大风"), ("star starry galaxy", "星空 繁星 银河"),
)
STYLES = (
    ("street market stall", "街头 夜市 摊位"), ("royal palace imperial", "宫廷 皇家 御用"),
    ("home family mother", "家常 妈妈 亲人"), ("village farm country", "乡村 田园 农家"),
    ("modern city urban", "现代 都市 城里"), ("retro vintage classic", "复古 怀旧 经典"),
)
MOODS = (
    ("calm quiet gentle", "安静 宁静 温柔"), ("happy cheerful joyful", "快乐 开心 欢喜"),
    ("wild fierce bold", "狂野 热烈 豪放"), ("dreamy magic secret", "梦幻 神奇 秘密"),
)
ATTRIBUTES = (SUBJECTS, STYLES, MOODS)
PULL = (100.0, 100.0, 6.0)  # an item is so much likelier if it shares the taste's subject, style, mood
DRIFT = (0.08, 0.05, 0.08)  # chance a step that the taste moves one place on the attribute's ring

TEMPLATES_EN = ("{2} {0} {3}, {1} style", "{1} {3} with a {2} touch of {0}",
                'The {2} {1} {3}: "{0}"', "{0} {3} from the {1}, so {2} \U0001f60b")
TEMPLATES_ZH = ("{2}的{0}{3}，{1}风", "【{1}】{0}{3}，太{2}了！",
                "{1}{3}：{2}的“{0}”", "{0}{3}, {1}, {2}\U0001f60b")
COLOURS = ((208, 48, 40), (224, 168, 24), (72, 160, 56), (32, 152, 176), (56, 72, 200), (168, 56, 168))
SHAPES = ((40, 0), (3, 0), (4, 0), (3, 180))  # corners, rotation: circle, triangle, square, triangle on its tip
SPOTS = (((160, 90, 66),), ((62, 96, 40), (160, 84, 40), (258, 96, 40)))  # one large shape, three small
PATTERNS = ((), ((0, 0, 19, 39),), ((0, 0, 39, 19),), ((0, 0, 19, 19), (20, 20, 39, 39)))  # a 40x40 tile
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size and the looks of one dataset. Without times it is published as behaviour.tsv.

    fresh: share of the items that are launched in the last `hours`.
    """

    items: int
    users: int
    longest: int
    timed: bool = True
    fresh: float = 0.25
    hours: int = 30
    nouns: tuple[str, str]
    prefixes: tuple[str, str] = ("", "")  # of user and item ids
    address: str = "https://m.bilibili.com/video/BV1{}"  # of an item


PLANS = {
    "demo_source": Plan(items=400, users=3000, longest=20, fresh=0.2, hours=120, prefixes=("1000", ""),
                        nouns=("vlog film story diary", "视频 影片 故事 日记")),
    "demo_food": Plan(items=400, users=1200, longest=12, timed=False,
                      nouns=("noodles soup cake dumplings", "面条 浓汤 蛋糕 饺子")),
    "demo_dance": Plan(items=400, users=1200, longest=12, prefixes=("u", "v"),
                       address="http://puui.qpic.cn/qqvideo_ori/0/{}_496_280/0",
                       nouns=("waltz tango ballet steps", "华尔兹 探戈 芭蕾 舞步")),
}  # fmt: skip


def write_suite(folder: Path, *, seed: int = 0) -> None:
    """Write the three datasets in the release's own layout, and a catalog for `$NINEREC_CATALOG`.

    `folder/release/<dataset>/` holds `<Stem>_pair.csv` (user, item, UTC seconds) or
    `<Stem>_behaviour.tsv`, `<Stem>_item.csv` (id, Chinese, English; no header) and `<Stem>_cover/`
    (JPEG); `folder/catalog/<dataset>.toml` describes it. `folder/origin/<dataset>.zip` is the same as
    published, without the covers; `<dataset>.json` beside it holds what stands behind each address of its mapping:
    id in the address -> [cover or null, title]. `folder/backup/` holds covers of items that are gone.
    The seed alone decides the bytes.
    """
    for number, name in enumerate(SUITE):
        plan, rng = PLANS[name], np.random.default_rng([seed, number])
        # Balanced classes in a random order: an item's place says nothing about its content.
        classes = rng.permutation(plan.items) % (8 * 6 * 4)
        traits = np.stack([classes % 8, classes // 8 % 6, classes // 48], axis=1)
        ids = [f"{plan.prefixes[1]}{n}" for n in rng.permutation(plan.items)]
        times = _times(plan, rng)
        chosen = _choices(plan, traits, times, rng)
        lines = "".join(_lines(plan, ids, chosen, times, rng)).encode()
        sweep(folder / "release", name)
        with staged_folder(folder / "release" / name) as release:
            stem = release / name.title()
            Path(f"{stem}_{'pair.csv' if plan.timed else 'behaviour.tsv'}").write_bytes(lines)
            _write_items(stem, plan, ids, traits, rng)
            extra = np.random.default_rng([seed, number, 1])
            addresses = _addresses(name, plan, ids)
            url = "".join(f"{item},{address}\n" for item, address in addresses.items())
            Path(f"{stem}_url.csv").write_text(url)
        _publish(folder, name, addresses, _titles(extra, traits[-3], plan.nouns)[0])
        entry = _catalog_entry(name, plan.users, chosen[chosen >= 0])
        atomic_write(folder / "catalog" / f"{name}.toml", entry)


def _catalog_entry(name: str, users: int, chosen: Ints) -> str:
    """Return the dataset's TOML (catalog_schema.py); its `published` figures are what was drawn."""
    return f"""\
title = "{name.title()}, drawn"
format = "ninerec"
role = "{"source" if name == SUITE[0] else "target"}"
release = "demo"
options = {{ stem = "{name.title()}" }}
text = {{ zh = ["title_zh"], en = ["title_en"] }}
modalities = ["text", "image"]
timestamps = {str(PLANS[name].timed).lower()}
terms = {{ text = "drawn by ninerec; free of any terms" }}
access = "public"
published = {{ users = {users}, items = {len(np.unique(chosen))}, interactions = {len(chosen)} }}

[[sources]]
assets = ["interactions", "titles", "mapping"]
kind = "http"
url = "{HOME}/{name}.zip"
file = "{name}.zip"
"""


def _lines(plan: Plan, ids: list[str], chosen: Ints, times: Ints, rng: Rng) -> list[str]:
    """Return the interactions file: timed pairs in time order, or one line a user."""
    users = [f"{plan.prefixes[0]}{n}" for n in rng.permutation(plan.users)]
    if not plan.timed:
        rows = [" ".join(ids[i] for i in row if i >= 0) for row in chosen]
        return [f"{user}\t{row}\n" for user, row in zip(users, rows, strict=True)]
    user, step = np.nonzero(chosen >= 0)
    order = np.argsort(times[user, step], kind="stable")  # equal times keep the sequence's order
    pairs = zip(user[order], step[order], strict=True)
    return [f"{users[u]},{ids[chosen[u, k]]},{times[u, k]}\n" for u, k in pairs]


def _times(plan: Plan, rng: Rng) -> Ints:
    """Return (users, longest) UTC seconds, oldest first; about one step in twenty takes no time."""
    gaps = rng.integers(1, 2 * DAY, (plan.users, plan.longest))
    gaps[rng.random(gaps.shape) < 0.05] = 0
    gaps[:, -1] = rng.integers(0, DAY, plan.users)  # from the last interaction to the end
    return END - np.cumsum(gaps[:, ::-1], axis=1)[:, ::-1]


def _choices(plan: Plan, traits: Ints, times: Ints, rng: Rng) -> Ints:
    """Return (users, longest) item places, -1 before a user's first: near the taste, none twice.

    The first of the places are launched in the last hours; the last place is never chosen.
    """
    launch = END - rng.integers(0, plan.hours * HOUR, plan.items)
    launch[int(plan.fresh * plan.items) :] = 0
    popularity = 1 / (60 + rng.permutation(plan.items))
    popularity[-2:] = 0.01, 0  # the last but one must be chosen: only the interactions name it
    taste = np.stack([rng.integers(0, len(a), plan.users) for a in ATTRIBUTES], axis=1)
    chosen = np.zeros((plan.users, plan.longest), np.int64)
    unseen = np.ones((plan.users, plan.items), bool)
    for step in range(plan.longest):
        age = times[:, step, None] - launch
        weight = popularity * unseen * (age >= 0)
        weight[age < 2 * DAY] *= 4  # what has just been launched is shown more
        for a, values in enumerate(ATTRIBUTES):
            moved = rng.random(plan.users) < DRIFT[a]
            taste[:, a] = (taste[:, a] + moved) % len(values)
            weight[taste[:, a, None] == traits[:, a]] *= PULL[a]
        # The first of exponential arrivals is a draw by weight.
        chosen[:, step] = np.argmax(weight / rng.standard_exponential(weight.shape), axis=1)
        unseen[np.arange(plan.users), chosen[:, step]] = False
    lengths = rng.integers(5, plan.longest + 1, (2, plan.users, 1)).min(axis=0)
    chosen[np.arange(plan.longest) < plan.longest - lengths] = -1
    return chosen


def _write_items(stem: Path, plan: Plan, ids: list[str], traits: Ints, rng: Rng) -> None:
    """Write the item table in a random order, and one cover for each of its rows."""
    covers = Path(f"{stem}_cover")
    covers.mkdir()
    with Path(f"{stem}_item.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        for place in rng.permutation(plan.items):
            if place == plan.items - 2:  # only the interactions know it
                continue
            titles = (
                ("", "") if place == plan.items - 3 else _titles(rng, traits[place], plan.nouns)
            )
            table.writerow((ids[place], *titles))
            _cover(rng, traits[place]).save(covers / f"{ids[place]}.jpg", "JPEG", quality=88)


def _addresses(name: str, plan: Plan, ids: list[str]) -> dict[str, str]:
    """Item id -> address in the mapping; not of the item that only the interactions know."""
    hidden = [hashlib.sha256(f"{name} {item}".encode()).hexdigest()[:9] for item in ids]
    pairs = zip(ids, hidden, strict=True)
    return {item: plan.address.format(word) for item, word in pairs if item != ids[-2]}


def _publish(folder: Path, name: str, addresses: dict[str, str], untitled: str) -> None:
    """Write the archive, what stands behind each address, and the backup. untitled: the page's title of an item."""
    release, stem = folder / "release" / name, name.title()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(release.glob(f"{stem}_*.*")):
            file.writestr(zipfile.ZipInfo(f"{stem}/{path.name}"), path.read_bytes())
    atomic_write(folder / "origin" / f"{name}.zip", archive.getvalue())
    with (release / f"{stem}_item.csv").open(encoding="utf-8", newline="") as rows:
        titles = {row[0]: row[1] for row in csv.reader(rows)}
    behind = {}
    for number, (item, address) in enumerate(addresses.items()):
        cover = f"release/{name}/{stem}_cover/{item}.jpg"
        gone = number % GONE_EVERY == GONE_EVERY - 1
        if gone and number % (2 * GONE_EVERY) == GONE_EVERY - 1:
            backup = folder / "backup" / f"{stem}_cover" / f"{item}.jpg"
            atomic_write(backup, (folder / cover).read_bytes())
        word = address.removesuffix("_496_280/0").rpartition("/")[2]
        behind[word] = [None if gone else cover, titles.get(item) or untitled]
    atomic_write(folder / "origin" / f"{name}.json", canonical_json(behind))


def _titles(rng: Rng, traits: Ints, nouns: tuple[str, str]) -> tuple[str, str]:
    """Return a Chinese and an English title that say the same, word for word."""
    meanings = [values[v] for values, v in zip(ATTRIBUTES, traits, strict=True)]
    pairs = [list(zip(e.split(), z.split(), strict=True)) for e, z in (*meanings, nouns)]
    english, chinese = zip(*(pair[rng.integers(len(pair))] for pair in pairs), strict=True)
    title_en = TEMPLATES_EN[rng.integers(len(TEMPLATES_EN))].format(*english)
    title_zh = TEMPLATES_ZH[rng.integers(len(TEMPLATES_ZH))].format(*chinese)
    return title_zh, title_en[0].upper() + title_en[1:]


def _cover(rng: Rng, traits: Ints) -> Image.Image:
    """Draw a cover: the subject's shape in the style's colour on the mood's pattern."""
    subject, style, mood = (int(v) for v in traits)
    colour = COLOURS[style]
    pale, paler = (tuple(c + (255 - c) * n // 10 for c in colour) for n in (6, 8))
    image = Image.new("RGB", COVER, paler)
    draw = ImageDraw.Draw(image)
    for x, y in itertools.product(range(0, COVER[0], 40), range(0, COVER[1], 40)):
        for left, top, right, bottom in PATTERNS[mood]:
            draw.rectangle((x + left, y + top, x + right, y + bottom), fill=pale)
    for x, y, radius in SPOTS[subject // len(SHAPES)]:
        dx, dy, dr = (int(v) for v in rng.integers(-10, 11, 3))
        circle = (x + dx, y + dy, radius + dr)
        draw.regular_polygon(circle, *SHAPES[subject % len(SHAPES)], fill=colour)
    return image


def write_tokenizer(folder: Path, titles: Iterable[str], *, vocab_size: int = 2000) -> None:
    """Train a small tokenizer on `titles`; write it beside the configurations of a tiny BERT and a tiny Swin.

    `AutoTokenizer` and `AutoConfig` read the folder without a network; the model has no weights.
    Lower case, CJK characters one by one, byte-pair merges: unlike WordPiece's, they train reproducibly.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plan = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(titles, plan)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **names}
    # Random weights learn the suite in minutes only so: one layer, wide at the start, no dropout.
    model = {
        "model_type": "bert", "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0, "hidden_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128, "initializer_range": 0.125,
        "max_position_embeddings": 64, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0,
    }  # fmt: skip
    # Of pictures of 64 pixels: patches of 4, so 256 places, and one halving.
    swin = {
        "patch_size": [4, 4],
        "embed_dim": 24,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": [4, 4],
    }
    atomic_write(folder / "swin.json", canonical_json(swin))
    atomic_write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    atomic_write(folder / "tokenizer_config.json", canonical_json(settings))
    atomic_write(folder / "config.json", canonical_json(model))
