"""Covers as pixels: decoded in threads from the shards at random, or read from a cache decoded once."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ninerec_data import CheckFailed, Dataset, NineRecError, UsageError
from ninerec_data.engine import default_jobs
from ninerec_data.files import hash_of, sync

__all__ = ["Images", "decoded_bytes"]

GREY = 128  # about zero after the papers' normalisation (mean 0.5, deviation 0.5)
AT_ONCE = 8  # pictures that a thread takes at a time
CACHED_AT_ONCE = 512

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

log = logging.getLogger(__name__)


class Images:
    """The covers of a dataset as uint8 pixels, `size` a side; default the size they were prepared at.

    A smaller size is decoded at the nearest larger N/8 and brought to size by Pillow's antialiased
    bicubic filter. threads: that decode; default the cores this process may use.
    decoded: read from `prepared/<dataset>/pixels/`, n_items + 1 raw pictures in one mapped file. It is
        made at first, and its size told (a warning of the logger `loaders.images`) before that; processes
        that start together make it once.
    Raises MissingData where no covers were prepared, UsageError for a size they cannot give, and where
    the disk has no room for the cache.
    """

    def __init__(
        self,
        ds: Dataset,
        size: int | None = None,
        *,
        threads: int | None = None,
        decoded: bool = False,
    ) -> None:
        self.covers, self.ids = ds.covers, ds.items["item_id"]
        self.stored = ds.cover_size
        self.size = self.stored if size is None else size
        if not 8 <= self.size <= self.stored:
            msg = (
                f"image size {size}: the covers of {ds.name} are {self.stored} pixels a side; expected 8 to "
                f"{self.stored}, as with --image-size {self.stored}"
            )
            raise UsageError(msg)
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; expected at least 1")
        self.threads = default_jobs() if threads is None else threads
        self.has = ds.has_cover
        self.cache = _cache(self, ds) if decoded else None
        self._rows: Tensor | None = None

    def of(self, items: Ints) -> tuple[Tensor, Tensor]:
        """(U, 3, size, size) uint8, channels_last in memory, and (U,) bool whether the item has a cover.

        Mid grey where it has none. Raises CheckFailed for a cover that cannot be read or decoded, with
        the item and the file, and for a cache that went or is damaged.
        """
        has = self.has[items]
        # numpy asks the system for large pages, torch does not: a quarter of the time to touch them.
        pixels = np.empty((len(items), self.size, self.size, 3), np.uint8)
        rows = torch.from_numpy(pixels)
        if self.cache is None:
            self._decode(items, has, pixels)
        else:
            torch.index_select(self._mapped(self.cache), 0, torch.from_numpy(items), out=rows)
        found = torch.from_numpy(has)
        if not has.all():
            rows[~found] = GREY
        return rows.permute(0, 3, 1, 2), found

    def _mapped(self, cache: Path) -> Tensor:
        """The cache, mapped by each process for itself; copy-on-write, which nothing writes to."""
        if self._rows is None:
            try:
                rows = np.load(cache, mmap_mode="c", allow_pickle=False)
            except (OSError, ValueError) as error:
                msg = f"the decoded cache {cache} cannot be read: {error}; delete it and start again: it is made anew"
                raise CheckFailed(msg) from error
            self._rows = torch.from_numpy(rows)
        # A map past the end of its file is a SIGBUS, not an error. One that was deleted can still be read.
        if cache.is_file() and cache.stat().st_size <= self._rows.numel():
            msg = f"the decoded cache {cache} was cut short; delete it and start again: it is made anew"
            raise CheckFailed(msg)
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def _decode(self, items: Ints, has: NDArray[np.bool_], out: Pixels) -> None:
        """Fill `out` where items have a cover. The pool lives as long as the batch: nothing to fork or pickle."""
        places = np.flatnonzero(has)
        chunks = [places[at : at + AT_ONCE] for at in range(0, len(places), AT_ONCE)]
        if self.threads == 1 or len(chunks) < 2:
            self._some(items, places, out)
            return
        with ThreadPoolExecutor(min(self.threads, len(chunks))) as pool:
            for done in [pool.submit(self._some, items, chunk, out) for chunk in chunks]:
                done.result()

    def _some(self, items: Ints, places: Iterable[int], out: Pixels) -> None:
        for place in places:
            self._one(int(items[place]), out[place])

    def _one(self, item: int, out: Pixels) -> None:
        try:
            jpeg = self.covers[item]
            if jpeg is None:
                raise ValueError("it has no bytes in the shard")
            if self.size == self.stored:
                if (found := simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out).shape) != out.shape:
                    raise ValueError(f"it is of {found[0]} x {found[1]} pixels")
                return
            least = {"min_height": self.size, "min_width": self.size}
            larger = Image.fromarray(simplejpeg.decode_jpeg(jpeg, "RGB", **least))
            out[:] = np.asarray(larger.resize((self.size, self.size), Image.Resampling.BICUBIC))
        except (OSError, ValueError, NineRecError) as error:
            msg = (
                f"the cover of item {item} ({self.ids[item - 1].as_py()}) cannot be read from "
                f"{self.covers.path(item)}: {error}. Run: ninerec verify {self.covers.folder.parent.name} --repair"
            )
            raise CheckFailed(msg) from error


def decoded_bytes(ds: Dataset, size: int | None = None) -> int:
    """Bytes on disk of the decoded cache of a dataset's covers."""
    return (ds.n_items + 1) * 3 * (size or ds.cover_size) ** 2


def _cache(images: Images, ds: Dataset) -> Path:
    """The file of just these covers at this size, made where it is not there: row i is item i."""
    made_of = [images.stored, ds.covers_index, simplejpeg.__version__, PIL.__version__]
    path = ds.folder / "pixels" / f"{images.size}-{hash_of(made_of)}.npy"
    if path.exists():
        return path
    try:
        path.parent.mkdir(exist_ok=True)
        with (path.parent / f".{images.size}.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # ranks start together: one makes it, others wait
            if not path.exists():
                _make_cache(images, ds, path)
    except OSError as error:
        msg = f"the decoded cache cannot be written: {error}; leave `decoded` out, or choose another home"
        raise UsageError(msg) from error
    return path


def _make_cache(images: Images, ds: Dataset, path: Path) -> None:
    """Decode every cover into a file that is renamed when whole; those of other covers, or of a kill, go."""
    need, work = decoded_bytes(ds, images.size), path.with_suffix(".part")
    for old in path.parent.glob(f"{images.size}-*"):
        old.unlink()
    free = shutil.disk_usage(path.parent).free
    told = f"{ds.name}: {ds.n_items:,} covers at {images.size} pixels take {need / 1e9:.2f} GB in {path.parent}"
    if free < need * 1.05:
        raise UsageError(f"{told}, where {free / 1e9:.2f} GB are free; leave `decoded` out")
    log.warning("%s; decoded once", told)
    shape = (images.size, images.size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": (ds.n_items + 1, *shape)}
    try:
        # Written, not mapped: a disk that fills is then an error, and no SIGBUS.
        with work.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            starts = range(0, ds.n_items + 1, CACHED_AT_ONCE)
            for at in tqdm(starts, "decoding", leave=False, disable=None):
                items = np.arange(at, min(at + CACHED_AT_ONCE, ds.n_items + 1))
                rows = np.zeros((len(items), *shape), np.uint8)
                images._decode(items, images.has[items], rows)
                file.write(rows.data)
        sync(work)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
