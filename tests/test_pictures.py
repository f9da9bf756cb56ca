"""Every kind of picture, drawn here with known colours: the right picture, or the right reason; never a crash."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ninerec_data import pictures
from ninerec_data.errors import UsageError
from ninerec_data.pictures import (
    Picture,
    Pixels,
    Recipe,
    blank,
    codec_versions,
    make_picture,
    open_picture,
    resized,
)

Array = NDArray[np.float64]
Colour = tuple[int, int, int]
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3
PINK = (255, 127, 127)  # half transparent red on white


def pixels(picture: Picture) -> Array:
    assert picture.reason is None
    assert picture.jpeg is not None
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image).astype(np.float64)


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def halves(mode: str, left: Any, right: Any, size: tuple[int, int] = (80, 40)) -> Image.Image:
    """A picture with a left and a right half."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


TWO = halves("RGB", RED, BLUE)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colours: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG by hand; every row is the same."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + row) * min(size[1], 64)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def tiff(bits: int, photometric: int, data: bytes, more: dict[int, int] | None = None) -> bytes:
    """A TIFF by hand: two pixels in one uncompressed strip, `more` tags."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1}
    tags |= {279: len(data), **(more or {})}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def sixteen(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def palette(*alphas: int) -> bytes:
    image = halves("P", 0, 1)
    image.putpalette([*RED, *BLUE])
    return file(image, "PNG", **({"transparency": bytes(alphas)} if alphas else {}))


def animation(kind: str) -> bytes:
    later = Image.new("RGB", TWO.size, GREEN)
    exact = {"lossless": True} if kind == "WEBP" else {}
    return file(TWO, kind, save_all=True, append_images=[later, TWO], **exact)


def profile(*order: int) -> bytes:
    """An ICC profile of sRGB's primaries in another order, gamma 2.2."""
    primaries = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    tags = {b"wtpt": xyz(0.9642, 1, 0.8249)}
    tags |= {b"%cXYZ" % c: xyz(*primaries[n]) for c, n in zip(b"rgb", order, strict=True)}
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, 563, 0)
    tags |= {b"%cTRC" % c: curve for c in b"rgb"}
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    white = struct.pack(">3i", 63190, 65536, 54061)
    return (
        (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + white.ljust(60, b"\0") + table + body
    )


SWAPPED = profile(2, 1, 0)

# name -> file, colour of its left half, of its right half
KINDS: dict[str, tuple[bytes, Colour, Colour]] = {
    "rgb-png": (file(TWO, "PNG"), RED, BLUE),
    "rgb-jpeg": (file(TWO, "JPEG", quality=95), RED, BLUE),
    "progressive-jpeg": (file(TWO, "JPEG", quality=95, progressive=True), RED, BLUE),
    "bmp": (file(TWO, "BMP"), RED, BLUE),
    "palette-bmp": (file(TWO.quantize(2), "BMP"), RED, BLUE),
    "webp": (file(TWO, "WEBP", lossless=True), RED, BLUE),
    "jpeg-2000": (file(TWO, "JPEG2000"), RED, BLUE),
    "j2k": (file(TWO, "JPEG2000", no_jp2=True), RED, BLUE),
    "avif": (file(TWO, "AVIF", quality=95, subsampling="4:4:4"), RED, BLUE),
    "tiff": (file(TWO, "TIFF"), RED, BLUE),
    "lzw-tiff": (file(TWO, "TIFF", compression="tiff_lzw"), RED, BLUE),
    "grey": (file(halves("L", 40, 200), "PNG"), (40,) * 3, (200,) * 3),
    "grey-jpeg": (file(halves("L", 40, 200), "JPEG"), (40,) * 3, (200,) * 3),
    "one-bit": (file(halves("1", 0, 1), "PNG"), BLACK, WHITE),
    "one-bit-fax": (file(halves("1", 0, 1), "TIFF", compression="group4"), BLACK, WHITE),
    "palette": (palette(), RED, BLUE),
    "palette-with-alpha": (palette(128, 0), PINK, WHITE),
    "grey-with-alpha": (file(halves("LA", (0, 128), (0, 0)), "PNG"), (127,) * 3, WHITE),
    "rgb-with-alpha": (file(halves("RGBA", (*RED, 128), (*BLUE, 0)), "PNG"), PINK, WHITE),
    "webp-with-alpha": (
        file(halves("RGBA", (*RED, 128), (*BLUE, 0)), "WEBP", lossless=True),
        PINK,
        WHITE,
    ),
    "rgb-with-a-clear-colour": (file(TWO, "PNG", transparency=BLUE), RED, WHITE),
    "gif-with-a-clear-colour": (file(TWO.quantize(2), "GIF", transparency=1), RED, WHITE),
    "16-bit-grey": (
        png((2, 2), 16, 0, sixteen(0x4000, 0xC000)),
        (0x40,) * 3,
        (0xC0,) * 3,
    ),
    "16-bit-colour": (png((2, 2), 16, 2, sixteen(65535, 0, 0, 0, 0, 65535)), RED, BLUE),
    "16-bit-grey-with-alpha": (
        png((2, 2), 16, 4, sixteen(0, 32768, 0, 0)),
        (127,) * 3,
        WHITE,
    ),
    "16-bit-colour-with-alpha": (
        png((2, 2), 16, 6, sixteen(65535, 0, 0, 32768, 0, 0, 65535, 0)),
        PINK,
        WHITE,
    ),
    "16-bit-tiff": (
        tiff(16, 1, struct.pack("<2H", 0x4000, 0xC000)),
        (0x40,) * 3,
        (0xC0,) * 3,
    ),
    "tiff-with-broken-exif": (tiff(8, 1, b"\x40\xc0", {34665: 4}), (0x40,) * 3, (0xC0,) * 3),
    "16-bit-tiff-white-is-zero": (
        tiff(16, 0, struct.pack("<2H", 0x3FFF, 0xFFFF)),
        (0xC0,) * 3,
        BLACK,
    ),
    "12-bit-tiff": (tiff(12, 1, b"\x40\x0c\x00"), (0x40,) * 3, (0xC0,) * 3),
    "16-bit-jpeg-2000": (
        file(Image.fromarray(np.full((40, 80), 0x4000, np.uint16)), "JPEG2000"),
        (0x40,) * 3,
        (0x40,) * 3,
    ),
    "cmyk-jpeg": (
        file(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG", quality=95),
        RED,
        BLUE,
    ),
    "cmyk-tiff": (
        file(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "TIFF"),
        RED,
        BLUE,
    ),
    # L*, a*, b* of a brick red: 40, 50, 40; of a mid grey: 53, 0, 0
    "lab-tiff": (
        file(halves("LAB", (102, 178, 168), (136, 128, 128)), "TIFF"),
        (171, 48, 32),
        (127,) * 3,
    ),
    "other-profile": (file(TWO, "PNG", icc_profile=SWAPPED), BLUE, RED),
    "other-profile-jpeg": (file(TWO, "JPEG", quality=95, icc_profile=SWAPPED), BLUE, RED),
    "other-profile-and-alpha": (
        file(halves("RGBA", (*BLUE, 128), (*RED, 0)), "PNG", icc_profile=SWAPPED),
        PINK,
        WHITE,
    ),
    "broken-profile": (file(TWO, "PNG", icc_profile=b"no profile at all"), RED, BLUE),
    "profile-of-other-colours": (
        file(halves("L", 40, 200), "JPEG", icc_profile=SWAPPED),
        (40,) * 3,
        (200,) * 3,
    ),
    "animated-gif": (animation("GIF"), RED, BLUE),
    "animated-webp": (animation("WEBP"), RED, BLUE),
    "animated-png": (animation("PNG"), RED, BLUE),
    "two-page-tiff": (animation("TIFF"), RED, BLUE),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_colours(name: str) -> None:
    data, left, right = KINDS[name]
    made = pixels(make_picture(data))
    assert made.shape == (224, 224, 3)
    assert made[60:160, 52:60].mean(axis=(0, 1)) == pytest.approx(left, abs=5)
    assert made[60:160, -60:-52].mean(axis=(0, 1)) == pytest.approx(right, abs=5)


def test_an_srgb_profile_changes_nothing() -> None:
    tagged = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert make_picture(file(TWO, "PNG", icc_profile=tagged)) == make_picture(file(TWO, "PNG"))


def test_chroma_at_a_third_which_simplejpeg_does_not_read() -> None:
    """A mid-grey JPEG of one 24x8 unit; its samplings patched, its six zero blocks written anew."""
    data = file(Image.new("RGB", (24, 8), (128,) * 3), "JPEG", subsampling=0, optimize=False)
    frame = data.index(b"\xff\xc0")
    patched = bytearray(data)
    patched[frame + 11] = 0x31  # brightness three units across, colours one
    scan = data.index(b"\xff\xda")
    scan += 2 + int.from_bytes(data[scan + 2 : scan + 4])
    zeros = int("001010" * 3 + "0000" * 2 + "111111", 2).to_bytes(4)
    made = pixels(make_picture(bytes(patched[:scan]) + zeros + b"\xff\xd9"))
    assert made == pytest.approx(128, abs=1)


# Orientation, fit, size


def corners(size: tuple[int, int]) -> Image.Image:
    """Red and green above, blue and black below."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, BLACK])
    return image.resize(size, Image.Resampling.NEAREST)


BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF -> the Image.Transpose that undoes it


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    image = corners((160, 80))
    if orientation in BACK:
        image = image.transpose(Image.Transpose(BACK[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = make_picture(file(image, kind, exif=exif, quality=95))
    made = pixels(picture)
    four = [
        made[y - 10 : y + 10, x - 10 : x + 10].mean(axis=(0, 1))
        for y in (50, 174)
        for x in (50, 174)
    ]
    assert np.array(four) == pytest.approx(np.array([RED, GREEN, BLUE, BLACK]), abs=8)
    assert (picture.width, picture.height) == (160, 80)


def test_a_png_may_tell_its_orientation_last() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(TWO, "PNG")
    late = data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]
    picture = make_picture(late)
    assert (picture.width, picture.height) == (40, 80)
    assert pixels(picture)[:50].mean(axis=(0, 1)) == pytest.approx(RED, abs=5)


def orientation_entry(kind: int, count: int, value: bytes) -> bytes:
    entry = struct.pack("<HHI", 0x0112, kind, count) + value
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)


BROKEN_EXIF = {
    "empty": b"Exif\0\0",
    "nonsense": b"Exif\0\0nonsense",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12",
    "text": orientation_entry(2, 4, b"six\0"),
    "far": orientation_entry(3, 900, b"\xff\xff\0\0"),
}


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_broken_exif_is_no_exif_and_warns_of_nothing(exif: bytes) -> None:
    before = list(warnings.filters)
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    for plain in (file(TWO, "JPEG"), file(TWO, "JPEG", dpi=(72, 72))):
        assert make_picture(data + plain[2:]) == make_picture(plain)
    assert warnings.filters == before


def test_of_two_orientations_the_first_holds_and_nothing_warns() -> None:
    exif = orientation_entry(3, 2, b"\x06\0\x03\0")
    picture = make_picture(file(TWO, "JPEG", exif=exif))
    assert (picture.width, picture.height) == (40, 80)


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (90, 30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_squash_keeps_all_and_center_crop_the_middle(size: tuple[int, int], kind: str) -> None:
    stripes = Image.new("RGB", (3, 1))
    stripes.putdata([RED, GREEN, BLUE])
    image = (stripes if size[0] > size[1] else stripes.transpose(Image.Transpose.TRANSPOSE)).resize(
        size, Image.Resampling.NEAREST
    )
    data = file(image, kind, quality=95)
    cropped = pixels(make_picture(data, Recipe(fit="center_crop")))
    assert cropped[10:-10, 10:-10].mean(axis=(0, 1)) == pytest.approx(GREEN, abs=5)
    squashed = pixels(make_picture(data))
    first = squashed[:, :60] if size[0] > size[1] else squashed[:60]
    last = squashed[:, -60:] if size[0] > size[1] else squashed[-60:]
    assert first.mean(axis=(0, 1)) == pytest.approx(RED, abs=5)
    assert last.mean(axis=(0, 1)) == pytest.approx(BLUE, abs=5)


def scene(size: tuple[int, int]) -> Image.Image:
    """Soft shapes and fine grain, as photographs have."""
    rng = np.random.default_rng(3)
    rough = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    fine = np.asarray(rough.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
    fine += rng.normal(0, 12, fine.shape)
    return Image.fromarray(fine.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(1920, 1080), (1281, 721), (1001, 601), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_scaled_decoding_is_near_and_exact_is_the_full_decode(
    size: tuple[int, int], mode: str
) -> None:
    data = file(scene(size).convert(mode), "JPEG", quality=88)
    with Image.open(io.BytesIO(data)) as image:
        full = image.resize((224, 224), Image.Resampling.BICUBIC).convert("RGB")
    for recipe, least in ((Recipe(), 42.0), (Recipe(decode="exact"), 55.0)):
        made = np.asarray(resized(open_picture(data), data, recipe), np.float64)
        error = float(np.mean((made - np.asarray(full)) ** 2))
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > least


def test_size_and_quality_of_the_jpeg() -> None:
    data = file(scene((640, 480)), "PNG")
    small, large = (make_picture(data, Recipe(size=64, quality=q)).jpeg or b"" for q in (20, 95))
    assert len(small) < len(large) / 2
    with Image.open(io.BytesIO(large)) as image:
        assert image.size == (64, 64)
        assert image.layer[0][1:3] == (2, 2)  # 4:2:0


def test_raw_pixels() -> None:
    picture = make_picture(Pixels(80, 40, TWO.tobytes()))
    assert picture == make_picture(file(TWO, "PNG"))
    for bad in (Pixels(80, 41, TWO.tobytes()), Pixels(0, 0, b""), Pixels(-1, -1, b"abc")):
        refused = make_picture(bad)
        assert refused.jpeg is None
        assert (refused.reason or "").startswith("damaged")


def test_blank_is_mid_grey() -> None:
    made = pixels(Picture(blank(Recipe(size=32)), None, None, None))
    assert (made == 128).all()
    assert made.shape == (32, 32, 3)


# Recipe


def test_the_recipe_is_recorded_and_hashed() -> None:
    assert Recipe().as_json() == {
        "recipe": 1,
        "size": 224,
        "fit": "squash",
        "decode": "scaled",
        "quality": 95,
        "resample": "bicubic",
        "subsampling": "4:2:0",
    }
    others = [
        Recipe(size=256),
        Recipe(fit="center_crop"),
        Recipe(decode="exact"),
        Recipe(quality=90),
    ]
    assert len({recipe.hash for recipe in (Recipe(), *others)}) == 5
    assert Recipe().hash == "7f888d0a"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"size": 4}, "size is 4; expected 8 to 2048"),
        ({"quality": True}, "quality is True"),
        ({"quality": 101}, "quality is 101; expected 1 to 100"),
        ({"fit": "crop"}, "fit is 'crop'; expected squash or center_crop"),
        ({"decode": "full"}, "decode is 'full'; expected scaled or exact"),
    ],
)
def test_a_recipe_that_cannot_be_meant(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe(**setting)


def test_codec_versions_name_what_decides_the_bytes() -> None:
    assert {
        "pillow",
        "simplejpeg",
        "libjpeg_turbo",
        "webp",
        "littlecms2",
    } <= codec_versions().keys()


# Refusals


def patched_jpeg(width: int, height: int) -> bytes:
    data = bytearray(file(TWO, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans() -> bytes:
    data = file(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * 200 + data[end:]


def strange_marker() -> bytes:
    data = file(TWO, "JPEG", progressive=True)
    end = data.rindex(b"\xff\xda")
    return data[:end] + b"\xff\xf0\0\2" + data[end:]


def webp_bomb(side: int) -> bytes:
    data = bytearray(file(TWO, "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = ((side - 1) | (side - 1) << 14).to_bytes(4, "little")
    return bytes(data)


FLOATS = tiff(32, 1, struct.pack("<2f", 0.2, 0.7), {339: 3})
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"no such cover\n", "not_a_picture"),
    "web page": (b"<!DOCTYPE html><html><svg></svg></html>", "not_a_picture"),
    "xhtml": (b"<?xml version='1.0'?><html><svg></svg></html>", "not_a_picture"),
    "zeros": (bytes(1000), "not_a_picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported: SVG"),
    "svg after xml": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "unsupported: SVG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported: HEIF"),
    "jpeg xl": (b"\xff\x0a\0\0", "unsupported: JPEG XL"),
    "psd": (b"8BPS\0\1", "not_a_picture"),
    "float": (FLOATS, "unsupported: samples of kind F"),
    "premultiplied grey": (
        tiff(8, 1, bytes((0, 128, 0, 0)), {277: 2, 338: 1}),
        "unsupported: samples or coding",
    ),
    "32-bit": (tiff(32, 1, bytes(8)), "unsupported: samples of kind I"),
    "12-bit jpeg": (
        file(TWO, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "unsupported: samples or coding",
    ),
    "png bomb": (png((65536, 65536), 8, 2, b""), "too_large: 65536x65536"),
    "jpeg bomb": (patched_jpeg(20000, 14000), "too_large: 20000x14000"),
    "thread": (png((1, 70000), 8, 0, b"\0"), "too_large: 1x70000"),
    "webp bomb": (webp_bomb(9000), "too_large: 9000x9000"),
    "largest webp": (webp_bomb(16383), "too_large"),
    "scans": (many_scans(), "damaged: too many scans"),
    "long": (b"\xff\xd8\xff" + bytes(64 << 20), "too_large: 64 MiB"),
    "strange marker": (strange_marker(), "damaged"),
    "no pixels": (png((0, 5), 8, 2, b""), "damaged"),
    "no pixels in a bmp": (file(TWO, "BMP").replace(b"\x50\0\0\0\x28", b"\0\0\0\0\x28"), "damaged"),
    "bad crc": (file(TWO, "PNG").replace(b"IHDR\0\0\0\x50", b"IHDR\0\0\0\x51"), "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once_for_the_right_reason(name: str) -> None:
    data, reason = REFUSED[name]
    began = time.perf_counter()
    picture = make_picture(data)
    assert time.perf_counter() - began < 1
    assert (picture.jpeg, picture.reason) == (None, reason)


def test_a_refusal_tells_the_size_the_header_tells() -> None:
    picture = make_picture(patched_jpeg(20000, 14000))
    assert (picture.width, picture.height) == (20000, 14000)
    picture = make_picture(b"no such cover\n")
    assert (picture.width, picture.height) == (None, None)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}])
@pytest.mark.parametrize("decode", ["scaled", "exact"])
def test_a_jpeg_cut_anywhere_is_truncated(options: dict[str, Any], decode: str) -> None:
    options = dict(options)
    data = file(scene((900, 700)).convert(options.pop("mode", "RGB")), "JPEG", **options)
    for share in (0.01, 0.02, 0.1, 0.5, 0.9, 0.99):
        picture = make_picture(data[: int(len(data) * share)], Recipe(decode=decode))  # type: ignore[arg-type]
        assert (picture.jpeg, picture.reason) == (None, "truncated")
    assert make_picture(data[:-2]).reason == "truncated"
    assert make_picture(data + b"trailing bytes").reason is None


def test_a_progressive_jpeg_cut_inside_its_tables_is_truncated() -> None:
    data = file(scene((64, 48)), "JPEG", progressive=True)
    for end in range(4, len(data), 7):
        assert make_picture(data[:end]).reason == "truncated", end


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_other_files_cut_in_half_are_refused(kind: str) -> None:
    data = file(scene((300, 200)), kind)
    picture = make_picture(data[: len(data) // 2])
    assert picture.jpeg is None
    assert picture.reason in ("truncated", "damaged")
    if kind in ("PNG", "GIF", "WEBP", "BMP"):
        assert picture.reason == "truncated"


def test_damage_inside_a_jpeg_is_not_shown_as_a_picture() -> None:
    data = bytearray(file(scene((900, 700)), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\x55" * 400
    assert make_picture(bytes(data)).reason == "damaged"


def test_running_out_of_memory_says_nothing_about_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", full)
    with pytest.raises(MemoryError):
        make_picture(file(TWO, "PNG"))


# Threads


def test_threads_make_the_same_bytes() -> None:
    data = [entry[0] for entry in KINDS.values()] + [entry[0] for entry in REFUSED.values()]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make_picture, data * 2)) == [make_picture(one) for one in data] * 2


def test_threads_leave_the_filters_of_warnings_alone() -> None:
    before = list(warnings.filters)
    data = file(TWO.resize((8, 8)), "JPEG", exif=BROKEN_EXIF["cut"])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = set(pool.map(make_picture, [data] * 400))
    finally:
        sys.setswitchinterval(interval)
    assert len(made) == 1
    assert warnings.filters == before


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_large_pictures_wait_for_one_another_and_small_ones_do_not(kind: str) -> None:
    large = file(Image.new("L", (3000, 3000), 90), kind, progressive=True)
    small = file(TWO, kind)
    done = threading.Event()

    def work(call: Callable[[], object]) -> None:
        call()
        done.set()

    with pictures._large:
        assert make_picture(small).reason is None
        thread = threading.Thread(target=work, args=[lambda: make_picture(large)])
        thread.start()
        assert not done.wait(0.5)
    thread.join(timeout=30)
    assert done.is_set()


# What might take the process down runs in one of its own

LOSSLESS = """
import io, struct
import numpy as np
from PIL import Image
from ninerec_data.pictures import Recipe, make_picture

# One-bit codes, all for 'no difference': mid grey throughout
frame = b"\\xff\\xc3" + struct.pack(">HBHHBBBB", 11, 8, 1200, 1600, 1, 1, 0x11, 0)
codes = b"\\xff\\xc4" + struct.pack(">HB16BB", 20, 0, 1, *[0] * 15, 0)
scan = b"\\xff\\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0) + bytes(1600 * 1200 // 8)
for side in (32, 224):
    for _ in range(50):
        picture = make_picture(b"\\xff\\xd8" + frame + codes + scan + b"\\xff\\xd9", Recipe(size=side))
    assert (picture.width, picture.height, picture.reason) == (1600, 1200, None)
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert (np.asarray(image) == 128).all()
"""


def test_a_lossless_jpeg_which_simplejpeg_scales_past_its_buffer() -> None:
    subprocess.run([sys.executable, "-c", LOSSLESS], check=True)


FUZZ = """
import io, random, sys, time, warnings
import numpy as np
from PIL import Image
from ninerec_data.pictures import Recipe, make_picture

warnings.simplefilter("error")
rng = np.random.default_rng(0)
slope = np.add.outer(np.arange(48) * 3, np.arange(64) * 2)[..., None]
base = Image.fromarray((slope + rng.integers(0, 60, (48, 64, 3))).astype(np.uint8))

def file(kind, mode="RGB", **options):
    stream = io.BytesIO()
    base.convert(mode).save(stream, kind, **options)
    return stream.getvalue()

exif = Image.Exif()
exif[0x0112] = 6
seeds = [
    file("JPEG"), file("JPEG", progressive=True), file("JPEG", exif=exif), file("JPEG", "L"),
    file("JPEG", "CMYK"), file("PNG"), file("PNG", "P"), file("PNG", "LA"), file("GIF"), file("WEBP"),
    file("WEBP", lossless=True), file("BMP"), file("TIFF"), file("TIFF", compression="tiff_lzw"),
    file("TIFF", compression="jpeg"), file("TIFF", "1", compression="group4"), file("AVIF"),
    file("JPEG2000"), file("GIF", save_all=True, append_images=[base.rotate(180)]), file("PNG", exif=exif),
]
codes = {"empty", "not_a_picture", "unsupported", "truncated", "damaged", "too_large"}
draw, slowest, good, recipe = random.Random(7), 0.0, 0, Recipe(size=32)
for number in range(2000):
    data = bytearray(seeds[number % len(seeds)])
    if number % 3 == 0:
        del data[draw.randrange(len(data)):]
    # headers are hit as often as pixels
    for _ in range(draw.choice((0, 1, 2, 8)) if number % 3 == 0 else draw.choice((1, 1, 2, 8, 40))):
        if data:
            data[draw.randrange(min(len(data), draw.choice((40, 700, 1 << 20))))] ^= 1 << draw.randrange(8)
    began = time.perf_counter()
    picture = make_picture(bytes(data), recipe)
    slowest = max(slowest, time.perf_counter() - began)
    if picture.jpeg is None:
        assert picture.reason.partition(":")[0] in codes, picture.reason
    else:
        assert picture.reason is None and picture.width > 0 and picture.height > 0
        with Image.open(io.BytesIO(picture.jpeg)) as image:
            assert image.size == (32, 32)
        good += 1
print(good, slowest)
"""


def test_2000_fuzzed_files_never_crash_or_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FUZZ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    good, slowest = done.stdout.split()
    assert 300 < int(good) < 1700  # neither all refused nor all let through
    assert float(slowest) < 5
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
