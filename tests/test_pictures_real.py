"""Real pictures: each odd file is the right picture or has the right reason; memory; quality beside Pillow.

The colours in ODD do not come from ninerec_data: full-size work by Pillow, LittleCMS and NumPy (alpha over
white in floating point), reduced last. Each is the mean of 9x9 pixels of the 224x224 picture.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ninerec_data.pictures import (
    PAPERS,
    Fit,
    Picture,
    Recipe,
    make_picture,
    open_picture,
    resized,
)

Array = NDArray[np.float64]

# file  published size, upright  either x,y=red,green,blue of three places or the reason
ODD = """\
16-bit-grey-alpha.png  109x96  22,208=255,255,255 142,22=239,239,239 142,46=247,247,247
2569067123_aca715a2ee_o.jpg  2725x2225  148,58=50,46,47 52,16=53,33,14 64,118=240,220,199
2x2_fdcce6.png  2x2  10,10=253,204,110 208,208=253,204,110 10,10=253,204,110
320x240.jpg  320x240  10,82=255,255,255 208,154=255,255,255 124,130=50,49,50
4.webp  1024x772  190,22=40,132,197 76,172=135,217,254 130,160=47,42,36
50020484-00001.png  2809x2074  10,124=255,255,255 208,10=255,255,255 82,124=149,149,149
5_webp_a.webp  300x300  10,10=255,255,255 154,190=204,204,204 112,22=213,97,97
65536-uint32-limit.png  65536x65536  too_large: 65536x65536
8bit_depth.tiff  21x21  34,34=0,0,0 190,118=255,255,255 94,94=127,127,127
Channel_digital_image_CMYK_color.jpg  500x333  106,184=146,150,155 160,112=22,51,55 184,154=220,218,214
Channel_digital_image_CMYK_color_no_profile.jpg  500x333  70,178=25,58,16 184,154=222,227,222 34,94=123,134,128
Crash_test.gif  800x533  202,166=107,112,117 142,94=195,196,190 136,148=47,58,74
Flag_of_the_Netherlands-16bit.png  900x600  10,10=174,28,40 208,142=255,255,255 10,160=33,70,139
Flag_of_the_Netherlands-alpha.png  900x600  10,10=214,141,147 208,142=255,255,255 10,160=144,162,197
Flag_of_the_Netherlands.png  900x600  10,10=174,28,40 208,142=255,255,255 10,160=33,70,139
G31D.TIF  2464x3248  16,22=255,255,255 208,208=255,255,255 196,166=2,2,2
G31D_MULTI.TIF  2464x3248  16,22=255,255,255 208,208=255,255,255 196,166=2,2,2
LICENSE  -  not_a_picture
Landscape_1.jpg  600x450  112,34=255,255,255 154,184=22,20,29 94,166=135,136,148
Landscape_2.jpg  600x450  112,34=253,255,254 154,184=21,20,30 88,172=137,135,144
Landscape_3.jpg  600x450  112,34=253,255,254 154,184=21,20,30 88,172=137,135,144
Landscape_4.jpg  600x450  166,16=253,255,254 154,184=21,20,30 88,172=137,135,144
Landscape_5.jpg  600x450  166,16=253,255,254 154,184=21,20,30 88,172=138,135,144
Landscape_6.jpg  600x450  112,34=253,255,254 154,184=21,20,30 88,172=137,135,144
Landscape_7.jpg  600x450  112,34=253,255,254 154,184=21,20,30 88,172=137,135,144
Landscape_8.jpg  600x450  166,16=253,255,254 154,184=21,20,31 118,130=137,137,142
Landscape_9.jpg  480x369  190,40=200,218,225 184,82=37,84,113 148,196=228,132,68
Portrait_1.jpg  450x600  88,10=255,255,255 196,136=33,35,39 136,34=148,153,134
Portrait_2.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,34=152,160,125
Portrait_3.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,34=151,160,125
Portrait_4.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,34=151,160,125
Portrait_5.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,34=151,160,125
Portrait_6.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,34=151,160,125
Portrait_7.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,130=139,142,155
Portrait_8.jpg  450x600  88,10=255,255,255 196,136=33,35,39 82,130=139,142,155
XCMYK 2017.icc  -  not_a_picture
alpha-layer-0-background.png  2048x1536  10,70=245,244,240 208,208=245,244,240 40,46=245,244,240
alpha-layer-1-fill.png  2048x1536  10,10=255,255,255 142,124=55,39,101 142,10=154,140,187
alpha-layer-2-ink.jpg  2048x1536  10,10=255,255,255 208,208=255,255,255 154,178=220,216,230
alpha-premultiply-1024x768-paper.png  1024x768  10,10=255,255,255 190,208=255,255,255 130,28=64,64,64
alpha-premultiply-2048x1536-paper.png  2048x1536  10,10=255,255,255 208,208=255,255,255 130,28=64,64,64
animated-loop-3.gif  370x285  10,10=254,255,252 208,208=254,255,252 208,160=197,197,195
animated-loop-3.webp  370x285  10,22=255,255,253 208,208=255,255,253 208,160=197,197,196
bandbool.png  200x200  10,10=255,0,0 130,130=85,170,255 112,40=0,0,124
bgbn4a08.png  32x32  16,16=254,254,254 148,118=165,165,165 208,208=27,27,27
bggn4a16.png  32x32  16,112=254,254,254 136,22=242,242,242 112,112=4,4,4
big-height.webp  13x169  10,10=255,255,255 208,208=255,255,255 10,10=255,255,255
blackbug.png  2048x1536  10,10=255,255,255 208,208=255,255,255 202,130=178,178,178
bonne.geo.tif  200x200  22,154=27,27,27 202,64=44,44,44 112,190=98,98,98
booleanTest.jpg  320x240  10,10=0,255,255 208,208=0,0,0 22,160=255,127,127
centered_image.jpeg  75x105  10,118=253,253,253 208,202=254,254,254 58,94=51,51,49
check.svg  -  unsupported: SVG
cielab-dagams.tiff  -  unsupported: samples or coding
circle.svg  -  unsupported: SVG
concert.jpg  400x267  10,10=0,0,0 136,70=252,252,252 118,58=127,127,127
corrupt-header.jpg  -  truncated
d.png  48x48  10,10=255,255,255 178,154=35,31,32 76,142=144,142,143
dot-and-lines.png  100x100  10,10=255,255,255 112,178=0,0,0 82,136=125,125,125
embedgravitybird.png  576x384  70,46=111,111,76 154,70=80,78,53 52,196=197,188,182
flowers.jpeg  1920x1080  112,112=254,195,177 166,166=212,163,148 10,10=109,83,76
fogra-0-100-100-0.tif  1000x1000  10,10=227,6,20 208,208=227,6,20 10,10=227,6,20
full-transparent.png  300x300  10,10=255,255,255 208,208=255,255,255 10,10=255,255,255
gain-map.jpg  3840x2160  112,202=235,235,235 172,10=18,18,16 148,112=132,123,123
gamma_dalai_lama_gray.jpg  258x222  160,52=127,127,127 202,52=127,127,126
giant-image.jpg  20000x14000  too_large: 20000x14000
gradients-rgb8.png  1000x1000  10,196=77,69,55 208,10=4,4,4 142,46=35,35,36
grey-8bit-alpha.png  400x300  10,10=255,255,255 172,100=219,219,219 112,76=237,237,237
grey-plus-alpha.gif  2x1  58,10=103,103,103 106,10=169,169,169 172,10=255,255,255
image-in-alpha.png  928x169  10,10=255,255,255 208,208=255,255,255 10,166=13,13,13
input.above.composite.premultiplied.png  80x80  10,10=255,255,255 130,190=208,207,207 100,208=231,231,231
input.below.composite.premultiplied.png  80x80  40,160=156,103,43 34,106=173,124,59 208,34=137,82,26
invalid-illuminant.icc  -  not_a_picture
low-contrast.jpg  300x245  184,52=116,112,111 22,10=186,186,185 184,76=169,147,132
p3.png  8x8  10,10=255,0,0 208,208=255,0,0 10,10=255,0,0
pitm.avif  4096x800  16,40=8,13,24 136,10=32,56,82 112,208=150,130,122
prophoto.png  1x1  10,10=117,160,210 208,208=117,160,210 10,10=117,160,210
random.jpg  200x200  160,202=140,134,150 202,88=109,141,114 94,46=130,102,123
relax.jp2  320x240  136,76=0,7,8 58,118=243,238,244 88,112=102,131,137
relax_tileparts.jp2  320x240  148,76=2,10,11 58,118=243,239,244 52,88=102,131,141
rotating-squares.gif  80x80  10,10=255,255,255 172,172=87,124,155 46,46=12,206,255
rotating-squares.webp  80x80  10,10=255,255,255 118,154=87,123,154 52,70=12,209,252
sdr_cosmos12920_cicp1-13-6_yuv444_full_qp10.avif  2048x858  52,196=59,0,58 112,184=0,174,255 172,130=236,64,206
slight-gradient-border.png  1000x1000  28,28=242,230,49 208,208=160,160,160 10,10=215,215,215
stripesH.png  320x240  10,34=127,127,127 208,160=128,128,128 10,70=133,133,133
stripesV.png  320x240  16,10=124,124,124 184,208=124,124,124 46,10=131,131,131
struct-image-04-t.svg  -  unsupported: SVG
swiss.png  68x68  10,10=255,255,255 142,64=226,7,16 52,76=240,133,134
tbgn2c16.png  32x32  10,10=255,255,255 172,58=119,119,119 148,106=4,4,240
test-pattern.png  1280x960  16,82=177,177,177 196,142=0,0,0 124,118=3,255,72
testJoinChannel.png  320x240  10,10=0,0,0 208,94=255,255,255 166,52=139,139,139
testimgl.jpg  227x149  70,208=254,254,252 34,22=43,40,42 172,52=253,73,117
thRandom.jpg  200x200  148,76=0,0,0 28,118=1,1,1 112,34=42,42,42
tifftag-photoshop.tiff  317x211  16,46=8,19,1 136,142=17,32,10 10,184=251,222,0
trim-mc.png  200x240  10,10=255,255,255 208,208=255,255,255 46,46=2,2,2
truncated.jpg  2725x2225  truncated
truncated.png  294x240  truncated
uncompressed_tiff.tiff  246x345  160,16=81,52,46 28,196=251,236,221 64,16=184,143,117
vfile.v  -  not_a_picture
with-alpha.png  256x192  10,10=147,87,215 208,208=147,87,215 10,10=147,87,215
"""
EXPECTED = dict(line.split("  ", 1) for line in ODD.splitlines())


@pytest.fixture(scope="module")
def odd(shared_data: Path) -> Path:
    return shared_data / "images" / "odd"


def pixels(picture: Picture) -> Array:
    assert picture.jpeg is not None
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))
        return np.asarray(image).astype(np.float64)


def test_the_table_names_every_odd_file(odd: Path) -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in odd.iterdir())


@pytest.mark.parametrize("name", EXPECTED)
def test_odd_file_is_the_right_picture_or_has_the_right_reason(odd: Path, name: str) -> None:
    size, wanted = EXPECTED[name].split("  ")
    picture = make_picture((odd / name).read_bytes())
    assert (f"{picture.width}x{picture.height}" if picture.width else "-") == size
    if "=" not in wanted:
        assert (picture.jpeg, picture.reason) == (None, wanted)
        return
    assert picture.reason is None
    made = pixels(picture)
    for place in wanted.split(" "):
        (x, y), colour = ([int(n) for n in part.split(",")] for part in place.split("="))
        found = made[y - 4 : y + 5, x - 4 : x + 5].mean(axis=(0, 1))
        assert found == pytest.approx(colour, abs=8), f"{name} at {x},{y}"


def eight_turns(picture: Array) -> list[Array]:
    sides = picture.transpose(1, 0, 2)
    return [
        turned[::down, ::across]
        for turned in (picture, sides)
        for down in (1, -1)
        for across in (1, -1)
    ]


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
@pytest.mark.parametrize(("folder", "numbers"), [("exif-orientation", 9), ("odd", 8)])
def test_every_exif_orientation_comes_out_upright(
    shared_data: Path, folder: str, numbers: int, kind: str
) -> None:
    files = sorted((shared_data / "images" / folder).glob(f"{kind}_[0-8].jpg"))
    assert len(files) == numbers
    upright = make_picture((shared_data / "images" / folder / f"{kind}_1.jpg").read_bytes())
    for file in files:
        picture = make_picture(file.read_bytes())
        off = [np.abs(turn - pixels(upright)).mean() for turn in eight_turns(pixels(picture))]
        assert off[0] < 5, file.name  # the digit differs, and the compression
        assert min(off[1:]) > 30, file.name
        assert (picture.width, picture.height) == (upright.width, upright.height)


def test_photographs_are_upright_in_truth(shared_data: Path) -> None:
    """Landscape_1 itself: the sky above is lighter than the ground."""
    made = pixels(
        make_picture((shared_data / "images/exif-orientation/Landscape_1.jpg").read_bytes())
    )
    assert made[:40].mean() > made[-40:].mean() + 20


# The peak of this process alone: what getrusage calls its peak begins with that of the process that started it.
MEMORY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ninerec_data.pictures import make_picture

files = [path for path in sorted(Path(sys.argv[1]).iterdir()) if path.is_file()]
with ThreadPoolExecutor(2) as pool:
    made = list(pool.map(lambda path: make_picture(path.read_bytes()), files))
assert "torch" not in sys.modules
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(made), int(lines["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
def test_the_odd_folder_on_two_threads_stays_under_600_mb(odd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, str(odd)],
        capture_output=True,
        text=True,
        check=True,
    )
    files, megabytes = (int(word) for word in done.stdout.split())
    assert files == len(EXPECTED)
    assert megabytes < 600
    assert done.stderr == ""


def test_two_threads_make_the_bytes_one_makes(odd: Path) -> None:
    data = [(odd / name).read_bytes() for name in EXPECTED]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(make_picture, data)) == [make_picture(one) for one in data]


def psnr(one: Array, other: Array) -> float:
    error = float(np.mean((one - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
def test_scaled_decoding_is_near_a_full_decode_by_pillow(shared_data: Path, fit: Fit) -> None:
    """The photographs are 2560x1600: decoded at 2/8, the farthest that scaling goes from a full decode."""
    near = []
    for path in sorted((shared_data / "images" / "photos").glob("*.jpg")):
        data = path.read_bytes()
        with Image.open(path) as image:
            box = (480, 0, 2080, 1600) if fit == "center_crop" else None
            plain = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, box=box)
        made = resized(open_picture(data), data, Recipe(fit=fit))
        near.append(psnr(np.asarray(made, np.float64), np.asarray(plain, np.float64)))
        exact = resized(open_picture(data), data, Recipe(fit=fit, decode="exact"))
        assert psnr(np.asarray(exact, np.float64), np.asarray(plain, np.float64)) > 60
    assert len(near) == 8
    assert np.mean(near) > 46
    assert min(near) > 42


def test_the_jpeg_written_is_near_what_was_resized(shared_data: Path) -> None:
    data = (shared_data / "images" / "photos" / "Kite.jpg").read_bytes()
    made = resized(open_picture(data), data, PAPERS)
    assert psnr(pixels(make_picture(data)), np.asarray(made, np.float64)) > 35
