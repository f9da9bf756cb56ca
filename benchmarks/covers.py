"""Covers per second and core, beside full decodes by Pillow and OpenCV and beside decoding alone.

    pip install opencv-python-headless      # for this benchmark only
    python benchmarks/covers.py             # --data PATH: the folder that has images/photos
    python benchmarks/covers.py --images 24 --rounds 3

96 crops of 1920x1080, drawn by `seed` from the photographs, saved at quality 88, 4:2:0. Each is brought to
224x224 by: ours (ninerec_data.pictures, without encoding); Pillow, full decode and antialiased bicubic, which
is also what quality is measured against; OpenCV, full decode and INTER_AREA, as img2dataset does it. The limit
is simplejpeg's decode alone at our scale. Rounds are interleaved and medians taken, of wall time and of this
thread's CPU time: where the machine is shared compare ratios, and CPU ratios first. The whole step, with
encoding, runs on one thread and on two. Prints JSON; exit 1 where a bar is missed, 3 without the photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import math
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
Times = dict[str, list[float]]


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


def opencv() -> Callable[[bytes], Array]:
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


def measure(steps: dict[str, Callable[[], object]], rounds: int) -> tuple[Times, Times]:
    """Seconds of wall and of CPU (all threads of this process), round by round."""
    wall: Times = {name: [] for name in steps}
    cpu: Times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began, spent = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - spent)
    return wall, cpu


def compare(crops: list[bytes], rounds: int) -> dict[str, Any]:
    """Run everything and hold it against the bars."""
    ways = {"ours": ours, "pillow": pillow, "opencv": opencv(), "decode_alone": decode_alone}
    one, two = ThreadPoolExecutor(1), ThreadPoolExecutor(2)
    steps: dict[str, Callable[[], object]] = {
        name: lambda way=way: [way(data) for data in crops] for name, way in ways.items()
    }
    steps["whole_1_thread"] = lambda: list(one.map(make_picture, crops))
    steps["whole_2_threads"] = lambda: list(two.map(make_picture, crops))
    near = {
        name: [psnr(pillow(data), way(data)) for data in crops]
        for name, way in ways.items()
        if name in ("ours", "opencv")
    }
    wall, cpu = measure(steps, rounds)

    def faster(times: Times, name: str, than: str) -> float:
        return round(statistics.median(times[than]) / statistics.median(times[name]), 2)

    def rates(times: Times) -> dict[str, float]:
        return {name: round(len(crops) / statistics.median(t), 1) for name, t in times.items()}

    found = {
        "ours_to_opencv": faster(wall, "ours", "opencv"),
        "ours_to_opencv_cpu": faster(cpu, "ours", "opencv"),
        "ours_to_decode_alone": faster(wall, "ours", "decode_alone"),
        "ours_to_decode_alone_cpu": faster(cpu, "ours", "decode_alone"),
        "two_threads_to_one": faster(wall, "whole_2_threads", "whole_1_thread"),
        "psnr_mean": round(statistics.mean(near["ours"]), 1),
        "psnr_worst": round(min(near["ours"]), 1),
    }
    bars = {
        "ours_to_opencv": 1.6,
        "ours_to_decode_alone": 0.55,
        "two_threads_to_one": 1.8,
        "psnr_mean": 50,
        "psnr_worst": 42,
    }
    return {
        "images_per_second": rates(wall),
        "images_per_cpu_second": rates(cpu),
        **found,
        "opencv_psnr_mean": round(statistics.mean(near["opencv"]), 1),
        "bars": bars,
        "missed": [name for name, bar in bars.items() if found[name] < bar],
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
    crops = draw_crops(folder, arguments.images, arguments.seed)
    mean = statistics.mean(len(data) for data in crops) / 1000
    about = {"images": len(crops), "rounds": arguments.rounds, "seed": arguments.seed}
    result = {**about, "mean_kilobytes": round(mean), "codecs": codec_versions()}
    result |= compare(crops, arguments.rounds)
    print(json.dumps(result, indent=2))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
