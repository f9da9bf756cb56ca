"""The pictures of the downloader's benchmarks: drawn from a seed, kept, and what they are held against.

Crops of the photographs, or soft noise without them, each with a tone, a grain and a title of its own, so that no two
are alike in bytes or to the eye. Drawing 3,000 of 1920x1080 takes minutes; they are kept in the work folder.
"""

from __future__ import annotations

import io
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import simplejpeg
from covers import psnr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

DATA = Path(os.environ.get("NINEREC_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
HOST = "covers.test"
SIDE = 224  # of what is made of them
Array = NDArray[np.uint8]


def address(item: int) -> str:
    """Where an item's cover is published."""
    return f"http://{HOST}/{item % 100:02d}/v{item}.jpg"


def key_of(item: str) -> str:
    """HOST/PATH of an item, as a mirror serves it."""
    return address(int(item[1:])).removeprefix("http://")


@cache
def photographs(data: Path) -> tuple[Image.Image, ...]:
    """The photographs, or one soft noise of several octaves where there are none."""
    paths = sorted((data / "images" / "photos").glob("*.jpg"))
    if paths:
        return tuple(Image.open(path).convert("RGB") for path in paths)
    rng, noise = np.random.default_rng(0), np.zeros((1600, 2560, 3), np.float32)
    for octave in range(3, 10):
        coarse = rng.integers(0, 256, (10 * 2**octave // 16, 2**octave, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((2560, 1600), Image.Resampling.BICUBIC)
        noise += (np.asarray(smooth, np.float32) - 128) * 0.6 ** (octave - 3)
    return (Image.fromarray((noise + 128).clip(0, 255).astype(np.uint8)),)


def draw_picture(item: int, seed: int, size: tuple[int, int], data: Path) -> bytes:
    """One JPEG that no other item has: a crop, its tone, its grain, its title."""
    rng, photos = np.random.default_rng([seed, item]), photographs(data)
    photo = photos[item % len(photos)]
    wide, high = (side * rng.uniform(0.5, 0.75) for side in (2560, 1440))
    left, top = rng.uniform(0, photo.width - wide), rng.uniform(0, photo.height - high)
    crop = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
    grain = rng.standard_normal((size[1], size[0], 1), np.float32) * (3 * rng.random() ** 3)
    tone = rng.uniform(0.8, 1.2, 3).astype(np.float32), rng.uniform(-20, 20, 3).astype(np.float32)
    toned = np.asarray(crop, np.float32) * tone[0] + tone[1] + grain
    image = Image.fromarray(toned.clip(0, 255).astype(np.uint8))
    font, place = ImageFont.load_default(size[1] // 12), (size[0] // 3, size[1] * 3 // 4)
    ImageDraw.Draw(image).text(place, f"Cover {item}", "white", font, stroke_width=1)
    quality = int(rng.integers(85, 91))
    return bytes(simplejpeg.encode_jpeg(np.asarray(image), quality, "RGB", "420"))


def _draw_part(folder: Path, items: range, seed: int, size: tuple[int, int], data: Path) -> None:
    for item in items:
        path = folder / key_of(f"v{item}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_picture(item, seed, size, data))


def draw_corpus(work: Path, items: int, seed: int, size: tuple[int, int], data: Path) -> Path:
    """The tree HOST/NN/vN.jpg of so many pictures, drawn where it is not there from an earlier run."""
    kind = "photos" if any((data / "images" / "photos").glob("*.jpg")) else "noise"
    tree = work / f"corpus-{kind}-{items}-{size[0]}x{size[1]}-{seed}"
    if not tree.exists():
        partial = tree.with_name(f".{tree.name}")
        shutil.rmtree(partial, ignore_errors=True)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            parts = [range(at, min(at + 50, items)) for at in range(0, items, 50)]
            tasks = [pool.submit(_draw_part, partial, part, seed, size, data) for part in parts]
            for task in tasks:
                task.result()
        partial.rename(tree)
    return tree


def pixels(jpeg: bytes) -> Array:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def references(original: bytes) -> tuple[Array, Array]:
    """Full decode, Pillow's antialiased bicubic: of the middle square, and of all, then cropped as img2dataset does."""
    with Image.open(io.BytesIO(original)) as opened:
        image = opened.convert("RGB")
        short, bicubic = min(image.size), Image.Resampling.BICUBIC
        left, top = ((side - short) / 2 for side in image.size)
        square = image.resize((SIDE, SIDE), bicubic, (left, top, left + short, top + short))
        wide, high = (round(side * SIDE / short) for side in image.size)
        x, y = (wide - SIDE) // 2, (high - SIDE) // 2
        cropped = image.resize((wide, high), bicubic).crop((x, y, x + SIDE, y + SIDE))
        return np.asarray(square), np.asarray(cropped)


def nearness(jpeg: bytes, original: Path) -> float:
    """PSNR in dB from the kinder of the original's references."""
    made = pixels(jpeg)
    return max(psnr(one, made) for one in _references(original))


@lru_cache(4096)
def _references(original: Path) -> tuple[Array, Array]:
    return references(original.read_bytes())
