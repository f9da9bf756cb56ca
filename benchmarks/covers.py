"""Covers per second and core, beside full decodes by Pillow and OpenCV and beside decoding alone.

    pip install opencv-python-headless      # for this benchmark only
    python benchmarks/covers.py             # --data PATH: the folder that has images/photos
    python benchmarks/covers.py --images 24 --rounds 3

96 crops of 1920x1080, drawn by `seed` from the photographs, saved at quality 88, 4:2:0. Each is brought to
224x224 by: ours (ninerec_data.pictures, without encoding); Pillow, full decode and antialiased bicubic, which
is also what quality is measured against; OpenCV, full decode and INTER_AREA, as img2dataset does it. The limit
is simplejpeg's decode alone at our scale. The ways take turns on each crop, and a crop's time is its median
over the rounds, so that what else runs on the machine falls on all alike; compare ratios only. The whole
step, with encoding, runs on one thread and on two, and the fastest rounds count: it needs two idle cores, so
look at `load_before`. Prints JSON; exit 1 where a bar is missed, 3 without the photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from ninerec_data.pictures import (
    PAPERS,
    SIDE,
    codec_versions,
    make_picture,
    open_picture,
    resized,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CROP = (1920, 1080)
SMALL = (PAPERS.size, PAPERS.size)
Array = np.ndarray[Any, Any]
Way = Callable[[bytes], Array]
BARS = {
    "ours_to_opencv": 1.6,
    "ours_to_decode_alone": 0.55,
    "two_threads_to_one": 1.8,
    "psnr_mean": 50,
    "psnr_worst": 42,
}


def draw_crops(folder: Path, images: int, seed: int) -> list[bytes]:
    """Draw crops from every photograph in turn."""
    rng = np.random.default_rng(seed)
    photos = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
    crops = []
    for number in range(images):
        photo = photos[number % len(photos)]
        left = int(rng.integers(photo.width - CROP[0] + 1))
        top = int(rng.integers(photo.height - CROP[1] + 1))
        jpeg = io.BytesIO()
        crop = photo.crop((left, top, left + CROP[0], top + CROP[1]))
        crop.save(jpeg, "JPEG", quality=88, subsampling="4:2:0")
        crops.append(jpeg.getvalue())
    return crops


def ours(data: bytes) -> Array:
    return np.asarray(resized(open_picture(data), data, PAPERS))


def pillow(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize(SMALL, Image.Resampling.BICUBIC))


def decode_alone(data: bytes) -> Array:
    pixels: Array = simplejpeg.decode_jpeg(data, min_height=SIDE, min_width=SIDE)
    return pixels


def opencv() -> Way:
    try:
        import cv2
    except ImportError:
        sys.exit("this benchmark compares with OpenCV: pip install opencv-python-headless")
    cv2.setNumThreads(1)

    def full_decode(data: bytes) -> Array:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(pixels, SMALL, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))

    return full_decode


def psnr(one: Array, other: Array) -> float:
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else 99.0


def measure(ways: dict[str, Way], crops: list[bytes], rounds: int) -> dict[str, Array]:
    """Median seconds a picture, of wall and of this thread's CPU time, each way in turn on each crop."""
    spent = np.zeros((2, len(ways), rounds, len(crops)))
    for turn in range(rounds):
        for number, data in enumerate(crops):
            for row in np.roll(
                range(len(ways)), turn
            ):  # none always finds what another left in the caches
                way = list(ways.values())[row]
                wall, cpu = time.perf_counter(), time.thread_time()
                way(data)
                spent[0, row, turn, number] = time.perf_counter() - wall
                spent[1, row, turn, number] = time.thread_time() - cpu
    wall, cpu = np.median(spent, axis=2).mean(axis=2)
    return {name: np.array([wall[row], cpu[row]]) for row, name in enumerate(ways)}


def whole_step(crops: list[bytes], rounds: int) -> tuple[float, float]:
    """Pictures per second with encoding, on one thread and on two: of every 48 the fastest round."""
    pools = [ThreadPoolExecutor(threads) for threads in (1, 2)]
    parts = [crops[start : start + 48] for start in range(0, len(crops), 48)]
    spent = np.zeros((2, rounds, len(parts)))
    for turn in range(rounds):
        for number, part in enumerate(parts):
            for row, pool in enumerate(pools):
                began = time.perf_counter()
                list(pool.map(make_picture, part))
                spent[row, turn, number] = time.perf_counter() - began
    one, two = len(crops) / spent.min(axis=1).sum(axis=1)
    return float(one), float(two)


def compare(crops: list[bytes], rounds: int) -> dict[str, Any]:
    """Run everything and hold it against the bars."""
    ways = {"ours": ours, "pillow": pillow, "opencv": opencv(), "decode_alone": decode_alone}
    near = [psnr(pillow(data), ours(data)) for data in crops]
    opencv_near = [psnr(pillow(data), ways["opencv"](data)) for data in crops]
    spent = measure(ways, crops, rounds)
    one, two = whole_step(crops, rounds)
    to_opencv = spent["opencv"] / spent["ours"]
    to_limit = spent["decode_alone"] / spent["ours"]
    found = {
        "ours_to_opencv": to_opencv[0],
        "ours_to_opencv_cpu": to_opencv[1],
        "ours_to_decode_alone": to_limit[0],
        "ours_to_decode_alone_cpu": to_limit[1],
        "two_threads_to_one": two / one,
        "psnr_mean": statistics.mean(near),
        "psnr_worst": min(near),
    }
    return {
        "images_per_second": {name: round(1 / times[0], 1) for name, times in spent.items()},
        "images_per_cpu_second": {name: round(1 / times[1], 1) for name, times in spent.items()},
        "whole_step_per_second": {"one_thread": round(one, 1), "two_threads": round(two, 1)},
        **{name: round(float(value), 2) for name, value in found.items()},
        "opencv_psnr_mean": round(statistics.mean(opencv_near), 2),
        "bars": BARS,
        "missed": [name for name, bar in BARS.items() if found[name] < bar],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Covers per second and core, beside other ways.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.data / "images" / "photos"
    if not any(folder.glob("*.jpg")):
        print(f"no photographs in {folder}; name their folder's root with --data", file=sys.stderr)
        return 3
    load = os.getloadavg()[0]
    crops = draw_crops(folder, arguments.images, arguments.seed)
    mean = statistics.mean(len(data) for data in crops) / 1000
    about = {"images": len(crops), "rounds": arguments.rounds, "seed": arguments.seed}
    result = {
        **about,
        "load_before": load,
        "mean_kilobytes": round(mean),
        "codecs": codec_versions(),
    }
    result |= compare(crops, arguments.rounds)
    print(json.dumps(result, indent=2))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
