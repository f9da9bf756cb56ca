"""One picture: the bytes as published in, a small RGB JPEG or a named reason out.

The papers' code trains on `Resize((224, 224))` of the cover: antialiased, aspect not kept. So do we. A JPEG
is decoded at N/8 of its size, the smallest that leaves 400 pixels for 224, and brought to size by Pillow's
antialiased bicubic filter: some 2.5 times as fast as from a full decode, and over 50 dB from it
(benchmarks/covers.py). `Recipe(decode="exact")` decodes in full. docs/pictures.md says what happens to
every kind of picture.

The header is read first: what is too large is refused before it costs memory, and pictures that are large
when decoded are decoded one at a time, whatever the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import PIL
import simplejpeg
from PIL import ExifTags, Image, ImageCms, ImageOps, features
from PIL.JpegImagePlugin import JpegImageFile

from ninerec_data.errors import UsageError
from ninerec_data.files import hash_of

__all__ = ["MAX_BYTES", "Picture", "Pixels", "Recipe", "blank", "codec_versions", "make_picture"]

Fit = Literal["squash", "center_crop"]
Decode = Literal["scaled", "exact"]

READ = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000", "TIFF", "BMP")
NOT_READ = {  # how a file of the kind begins
    "SVG": rb"(\xef\xbb\xbf)?\s*<(svg|(\?xml|!--|!DOCTYPE svg)(?!.*<html).*<svg)",
    "HEIF": rb"....ftyp(hei|hev|(mif|msf)1(?!.{0,48}avi[fs]))",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
}
SAID = {  # our word for what decoders say
    "too_large": "exceeds limit",
    "truncated": "[Tt]runcated|Premature end of JPEG file|requires a buffer|only got|no more images",
    "unsupported: samples or coding": "pixel mode|cannot handle|[Uu]nsupported(?! marker)|not supported|not installed",
}

MAX_BYTES = 64 << 20  # of a picture as published
# Pixels of the largest picture that is decoded: half a gigabyte for each, as its decoder uses memory.
MAX_PIXELS = {"WEBP": 30_000_000, "AVIF": 40_000_000, "JPEG2000": 20_000_000}  # others: 50
ONE_AT_A_TIME = 5_000_000  # pixels held while decoding, or more

SIDE = 400  # a JPEG's shorter side when decoded, at least, for 224 pixels

_header = threading.Lock()
_large = threading.Lock()
Image.init()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How covers are made; its hash says whether two stores hold the same."""

    size: int = 224
    fit: Fit = "squash"
    decode: Decode = "scaled"
    quality: int = 95

    def __post_init__(self) -> None:
        numbers = {"size": range(8, 2049), "quality": range(1, 101)}
        for name, known in {**numbers, "fit": get_args(Fit), "decode": get_args(Decode)}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or value not in known:
                said = f"{known[0]} to {known[-1]}" if name in numbers else " or ".join(known)
                raise UsageError(f"the covers' {name} is {value!r}; expected {said}")

    def as_json(self) -> dict[str, Any]:
        """Everything that decides the bytes, but the codecs' versions."""
        return asdict(self) | {"recipe": 1, "resample": "bicubic", "subsampling": "4:2:0"}

    @property
    def hash(self) -> str:
        return hash_of(self.as_json())


PAPERS = Recipe()


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG of the recipe's size, or the reason why there is none; width and height as published, upright."""

    jpeg: bytes | None
    reason: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class Pixels:
    """Raw RGB, row by row, as upstream's LMDB stores hold it."""

    width: int
    height: int
    rgb: bytes


class _Refused(Exception):
    """Not a picture we make; the message is the reason."""


def make_picture(data: bytes | Pixels, recipe: Recipe = PAPERS) -> Picture:
    """Never raises for bad data; the same bytes from any thread."""
    size: tuple[int | None, int | None] = (None, None)
    try:
        image = open_picture(data)
        size = _upright_size(image)
        small = resized(image, data, recipe)
        return Picture(_encode(small, recipe), None, *_upright_size(image))
    except _Refused as refusal:
        reason = str(refusal)
    except MemoryError:
        raise  # says nothing about the picture
    except Exception as error:  # what decoders raise on bad data is not theirs to promise
        reason = _reason(str(error), b"" if isinstance(data, Pixels) else data)
    return Picture(None, reason, *size)


def blank(recipe: Recipe) -> bytes:
    """Mid grey: zero after the papers' normalisation (mean 0.5, deviation 0.5)."""
    return _encode(Image.new("RGB", (recipe.size, recipe.size), (128, 128, 128)), recipe)


def codec_versions() -> dict[str, str]:
    """The libraries that decide the bytes."""
    inside = ("libjpeg_turbo", "zlib", "webp", "avif", "jpg_2000", "libtiff", "littlecms2")
    found = {name: version for name in inside if (version := features.version(name))}
    return {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__, **found}


def open_picture(data: bytes | Pixels) -> Image.Image:
    """Read the header alone, or refuse."""
    if isinstance(data, Pixels):
        if not data.rgb or len(data.rgb) != data.width * data.height * 3:
            raise _Refused("damaged: not width x height x 3 bytes")
        return Image.frombytes("RGB", (data.width, data.height), data.rgb)
    if not data:
        raise _Refused("empty")
    if len(data) > MAX_BYTES:
        raise _Refused(f"too_large: {len(data) >> 20} MiB")
    for kind, start in NOT_READ.items():
        if re.match(start, data[:4096], re.DOTALL):
            raise _Refused(f"unsupported: {kind}")
    for kind in READ:
        reader, accepts = Image.OPEN[kind]
        if accepts and accepts(data[:16]):
            plain = JpegImageFile if kind == "JPEG" else reader  # the registered one looks for more
            with _quietly():
                return plain(io.BytesIO(data), "")
    raise _Refused("not_a_picture")


def resized(image: Image.Image, data: bytes | Pixels, recipe: Recipe) -> Image.Image:
    """Decode, bring to size, to sRGB and onto white, turn upright."""
    most = MAX_PIXELS.get(image.format or "", 50_000_000)
    if image.width * image.height > most or max(image.size) > 65_535:
        raise _Refused(f"too_large: {image.width}x{image.height}")
    small = _small_jpeg(image, data, recipe) if isinstance(image, JpegImageFile) else None
    if small is None:
        with _room(*image.size), _quietly() if image.format == "TIFF" else contextlib.nullcontext():
            image.load()
            small = _fitted(_plain(image), image.size, recipe)
    small = _srgb_on_white(small, image.info.get("icc_profile"))
    if (turn := _turn(image)) != 1:
        small.getexif()[ExifTags.Base.Orientation] = turn
        ImageOps.exif_transpose(small, in_place=True)
    return small


def _small_jpeg(image: Any, data: Any, recipe: Recipe) -> Image.Image | None:
    """Strictly: what libjpeg would mend in silence is damage. None where only Pillow reads it."""
    progressive = "progressive" in image.info
    if progressive and data.count(b"\xff\xda") > 100:  # each passes over the whole picture
        raise _Refused("damaged: too many scans")
    side = recipe.size * SIDE // PAPERS.size
    # Lossless JPEG: when it scales one, simplejpeg 1.9 writes past its buffer
    lossless = b"\xff\xc3" in data[: image.fp.tell()]
    if lossless or recipe.decode == "exact" or side * 8 > min(image.size) * 5:
        side = 0  # in full, which takes no longer than 6/8 or 7/8
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, side, side)
    except ValueError:
        return None  # such as chroma at a third of the width
    colours = {"L": "GRAY"}.get(image.mode, image.mode)
    inverted = "CMYK;I" if image.mode == "CMYK" else image.mode  # as Adobe writes it
    with _room(*(image.size if progressive else (width, height))):
        pixels = simplejpeg.decode_jpeg(data, colours, min_height=side, min_width=side)
        decoded = Image.frombytes(image.mode, (width, height), pixels, "raw", inverted)
        scale = round(8 * max(width, height) / max(image.size)) / 8
        return _fitted(decoded, (image.width * scale, image.height * scale), recipe)


def _fitted(image: Image.Image, size: tuple[float, float], recipe: Recipe) -> Image.Image:
    """The whole, or the square in its middle, at the recipe's size."""
    width, height = size
    crop = recipe.fit == "center_crop"
    left, top = (max(width - height, 0) / 2, max(height - width, 0) / 2) if crop else (0, 0)
    box = (left, top, width - left, height - top)
    return image.resize((recipe.size, recipe.size), Image.Resampling.BICUBIC, box=box)


def _plain(image: Image.Image) -> Image.Image:
    """One of the modes L, RGB, RGBA, CMYK and LAB, all of 8 bits."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, and takes no notice of TIFF's 12 bits and WhiteIsZero
        tags = getattr(image, "tag_v2", {})
        grey = (np.asarray(image) >> (tags.get(258, (16,))[0] - 8)).astype(np.uint8)
        return Image.fromarray(grey if tags.get(262) != 0 else ~grey)
    if image.mode != "RGBA" and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("1", "P", "YCbCr"):
        return image.convert("RGB")
    if image.mode not in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        raise _Refused(f"unsupported: samples of kind {image.mode}")
    return image


def _srgb_on_white(small: Image.Image, profile: bytes | None) -> Image.Image:
    colours = small.convert("RGB") if small.mode == "RGBA" else small
    transform = _to_srgb(profile, colours.mode)
    rgb = transform.apply(colours) if transform else colours.convert("RGB")
    if small.mode != "RGBA":
        return rgb
    white = Image.new("RGB", small.size, (255, 255, 255))
    white.paste(rgb, mask=small.getchannel("A"))
    return white


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """LittleCMS's transform; None where the profile is absent, sRGB, broken, or for other colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _turn(image: Image.Image) -> Any:
    """EXIF's orientation; Pillow has turned a TIFF by itself."""
    if not image.info.get("exif"):
        return 1
    exif = Image.Exif()
    with _quietly(), contextlib.suppress(Exception):  # a broken EXIF block is no EXIF block
        exif.load(image.info["exif"])
        return exif.get(ExifTags.Base.Orientation, 1)
    return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _turn(image) in (5, 6, 7, 8) else image.size


def _room(width: int, height: int) -> contextlib.AbstractContextManager[Any]:
    """Two large pictures are never held at once."""
    return _large if width * height > ONE_AT_A_TIME else contextlib.nullcontext()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Pillow warns of bad metadata; the filters are the process's, so one thread at a time."""
    with _header, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _encode(image: Image.Image, recipe: Recipe) -> bytes:
    how = {"quality": recipe.quality, "colorspace": "RGB", "colorsubsampling": "420"}
    return bytes(simplejpeg.encode_jpeg(np.asarray(image), **how))


def _reason(said: str, data: bytes) -> str:
    """A JPEG without its end is truncated whatever the decoder tripped over, a WebP by its length."""
    jpeg_cut = data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    webp_cut = data.startswith(b"RIFF") and len(data) < int.from_bytes(data[4:8], "little") + 8
    if jpeg_cut or webp_cut:
        return "truncated"
    return next((word for word, words in SAID.items() if re.search(words, said)), "damaged")
