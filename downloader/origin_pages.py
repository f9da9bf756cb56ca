"""What the local origin's sites say: pages, view answers, covers, release files and Google Drive.

A world made up from ids: every video exists unless it is gone. Nothing here knows of sockets; `origin.py` serves it.
The id can be read back from a cover's address, so that nothing has to be remembered between page and picture.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import mimetypes
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

__all__ = ["Asked", "Reply", "Sites", "Video", "draw", "page", "recoded"]

HTML, JSON, BYTES = "text/html; charset=utf-8", "application/json", "application/octet-stream"
_DAY = 86400  # seconds
_HOP = "origin-hop="


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One item as the origin knows it. picture: its cover, None: gone."""

    picture: bytes | Path | None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. key: HOST/PATH?QUERY without the origin's own `hop`, which counts the redirects made up on the way.

    before: how many times the same was asked before. headers: as they came, any case.
    """

    key: str
    headers: Mapping[str, str] = field(default_factory=dict)
    before: int = 0
    hop: int = 0

    @classmethod
    def of(cls, key: str, headers: Mapping[str, str], before: int) -> Asked:
        """Take the number of redirects so far off the address."""
        plain, mark, hop = key.rpartition(_HOP)
        return cls(plain[:-1], headers, before, int(hop)) if mark else cls(key, headers, before)

    @property
    def bare(self) -> str:
        """HOST/PATH."""
        return self.key.partition("?")[0]

    @property
    def host(self) -> str:
        """HOST, with its port where one was given."""
        return self.key.partition("/")[0]

    def find(self, table: Mapping[str, Any]) -> Any:
        """What a table holds for the address, with its query or else without; None: nothing."""
        found = table.get(self.key)
        return table.get(self.bare) if found is None else found

    def hopped(self, scheme: str, count: int) -> str:
        """The same address, `count` redirects on."""
        return f"{scheme}://{self.key}{'&' if '?' in self.key else '?'}{_HOP}{count}"

    @property
    def query(self) -> dict[str, str]:
        """The query's fields, decoded."""
        return dict(parse_qsl(self.key.partition("?")[2]))


@dataclass(frozen=True, slots=True)
class Reply:
    """A response before it is sent. is_file: it has an ETag and a date, and can be asked for in parts.

    headers: they win over those that come with a file or a range.
    """

    body: bytes | Path
    kind: str = HTML
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_file: bool = False

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    @property
    def data(self) -> bytes:
        """The body, read where it is a file."""
        return self.body if isinstance(self.body, bytes) else self.body.read_bytes()

    @property
    def version(self) -> tuple[str, float]:
        """ETag, and seconds since 1970 of the last change; bytes are of 1 March 2023."""
        if isinstance(self.body, bytes):
            return f'"{zlib.crc32(self.body):08x}"', 1_677_628_800.0
        seen = self.body.stat()
        return f'"{seen.st_mtime_ns:x}-{seen.st_size:x}"', seen.st_mtime

    def chunks(self, start: int, end: int, size: int) -> Iterator[bytes]:
        """The bytes from start to end, `size` at a time."""
        whole = self.body
        with io.BytesIO(whole) if isinstance(whole, bytes) else whole.open("rb") as file:
            file.seek(start)
            for at in range(start, end, size):
                yield file.read(min(size, end - at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """All sites of one origin; the arguments are those of `Origin`. lifetime: seconds that signed addresses live."""

    files: Mapping[str, Path | bytes]
    pictures: Callable[[str, str], bytes | Path | None]
    titles: Callable[[str], str]
    gone: Callable[[str], bool]
    robots: Mapping[str, str]
    seed: int = 0
    lifetime: int = 2 * _DAY

    def reply(self, asked: Asked) -> Reply:
        """What the site says when nothing is wrong."""
        if (body := asked.find(self.files)) is not None:
            return Reply(body, mimetypes.guess_type(asked.bare)[0] or BYTES, is_file=True)
        if asked.bare == f"{asked.host}/robots.txt" and asked.host in self.robots:
            return Reply(self.robots[asked.host].encode(), "text/plain")
        for route, answer in _ROUTES:
            if found := route.fullmatch(asked.bare):
                return answer(self, asked, *found.groups())
        return _NOT_FOUND

    def video(self, platform: str, name: str) -> Video:
        """A video of bilibili, kuaishou, douyin or qpic."""
        if self.gone(name):
            return Video(picture=None)
        return Video(picture=self.pictures(platform, name), title=self.titles(name))

    def sign(self, name: str) -> str:
        """A signature, 40 hex digits, that only this origin can make."""
        return hashlib.sha1(f"{self.seed}/{name}".encode()).hexdigest()

    def cover_url(self, platform: str, name: str) -> str:
        """Where a video's page says that its cover is. Douyin's changes once a day, and is signed until then."""
        mark, hidden = self.sign(name), name.encode().hex()
        if platform == "bilibili":
            host = f"i{int(mark, 16) % 3}.hdslb.com"
            return f"https://{host}/bfs/archive/{hidden}{mark[:16]}.jpg"
        if platform == "kuaishou":
            return f"https://p1.a.yximgs.com/upic/{hidden}.jpg?tag=1-{mark}&clientCacheKey={hidden}.jpg"
        expires = int(time.time()) // _DAY * _DAY + self.lifetime
        signed = f"x-expires={expires}&x-signature={self.sign(f'{name}{expires}')}%3D"
        return f"https://p3.douyinpic.com/img/{hidden}~c5_300x400.webp?{signed}"

    def picture(self, platform: str, name: str, kind: str = "image/jpeg") -> Reply:
        """The cover itself, 404 where it is gone."""
        body = None if self.gone(name) else self.pictures(platform, name)
        return _NOT_FOUND if body is None else Reply(body, kind, is_file=True)


def page(title: str, body: str = "") -> bytes:
    """A small web page; `body` is taken as it is."""
    head = f"<head><meta charset=utf-8><title>{html.escape(title)}</title></head>"
    return f"<!doctype html><html>{head}<body>{body}</body></html>".encode()


_NOT_FOUND = Reply(page("404", "<h1>Nothing lives here</h1>"), status=404)
_FORBIDDEN = Reply(page("403", "<h1>Not for you</h1>"), status=403)


def _state(value: object) -> str:
    """JSON as it stands inside a script."""
    return json.dumps(value, ensure_ascii=False).replace("/", "\\u002F")


def _view(sites: Sites, name: str) -> dict[str, str] | None:
    video = sites.video("bilibili", name)
    if video.picture is None:
        return None
    return {"bvid": name, "pic": sites.cover_url("bilibili", name), "title": video.title}


def _bilibili_page(sites: Sites, _: Asked, name: str) -> Reply:
    view = _view(sites, name)
    error = {} if view else {"code": 404, "trueCode": -404, "message": "啥都木有"}
    script = f"window.__INITIAL_STATE__={_state({'error': error, 'videoData': view or {}})};(function(){{}}());"
    return Reply(
        page(f"{view['title'] if view else '出错了'} - bilibili", f"<script>{script}</script>")
    )


def _bilibili_view(sites: Sites, asked: Asked) -> Reply:
    view = _view(sites, asked.query.get("bvid", ""))
    said = {"code": 0, "message": "0"} if view else {"code": -404, "message": "啥都木有"}
    return Reply(json.dumps({**said, "ttl": 1, "data": view}, ensure_ascii=False).encode(), JSON)


def _bilibili_picture(sites: Sites, asked: Asked, hidden: str, variant: str | None) -> Reply:
    referer = asked.headers.get("Referer", "")
    if referer and "bilibili.com" not in referer.partition("//")[2].partition("/")[0]:
        return _FORBIDDEN
    whole = sites.picture("bilibili", _shown(hidden))
    if not variant or whole.status != 200:
        return whole
    form = "webp" if variant.endswith(".webp") else "jpeg"
    return Reply(recoded(whole.data, form, variant), f"image/{form}", is_file=True)


def _kuaishou_page(sites: Sites, _: Asked, name: str) -> Reply:
    video, node = sites.video("kuaishou", name), f"VisionVideoDetailPhoto:{name}"
    photo = {"id": name, "caption": video.title, "coverUrl": sites.cover_url("kuaishou", name)}
    there = video.picture is not None
    detail = {"status": 1, "photo": {"type": "id", "id": node} if there else None}
    client = {f'$ROOT_QUERY.visionVideoDetail({{"photoId":"{name}"}})': detail}
    state = {"defaultClient": {**client, node: photo} if there else client}
    return Reply(page("快手", f"<script>window.__APOLLO_STATE__={_state(state)};</script>"))


def _kuaishou_picture(sites: Sites, asked: Asked, hidden: str) -> Reply:
    name = _shown(hidden)
    signed = asked.query.get("tag") == f"1-{sites.sign(name)}"
    return sites.picture("kuaishou", name) if signed else _FORBIDDEN


def _douyin_page(sites: Sites, _: Asked, name: str) -> Reply:
    video, detail = sites.video("douyin", name), {}
    if video.picture is not None:
        cover = {"url_list": [sites.cover_url("douyin", name)]}
        shown = {"cover": cover, "origin_cover": cover}
        detail = {"aweme_id": name, "desc": video.title, "video": shown}
    data = quote(json.dumps({"app": {"aweme_detail": detail}}, ensure_ascii=False), safe="")
    script = f'<script id="RENDER_DATA" type="application/json">{data}</script>'
    return Reply(page("抖音", script))


def _douyin_picture(sites: Sites, asked: Asked, hidden: str) -> Reply:
    name, expires = _shown(hidden), asked.query.get("x-expires", "0")
    if (
        asked.query.get("x-signature") != f"{sites.sign(name + expires)}="
        or int(expires) < time.time()
    ):
        return _FORBIDDEN
    return sites.picture("douyin", name, "image/webp")


def _qpic_picture(sites: Sites, _: Asked, name: str) -> Reply:
    return sites.picture("qpic", name, BYTES)


def _drive(sites: Sites, asked: Asked, folder: str | None) -> Reply:
    """`/uc` sends to the download host; that asks to confirm what is too large to be scanned, then gives the bytes."""
    name = asked.query.get("id", "")
    file = sites.files.get(f"drive.google.com/{name}")
    if file is None:
        return Reply(
            page("Google Drive - Not found", "<p>The file you have requested does not exist.</p>"),
            status=404,
        )
    there = "https://drive.usercontent.google.com/download"
    if folder:
        return Reply(b"", status=303, headers={"Location": f"{there}?id={name}&export=download"})
    if asked.query.get("confirm") == "t":
        named = file.name if isinstance(file, Path) else name
        saved = {"Content-Disposition": f'attachment; filename="{quote(named)}"'}
        return Reply(file, BYTES, headers=saved, is_file=True)
    fields = {"id": name, "export": "download", "confirm": "t", "uuid": sites.sign(name)[:32]}
    hidden = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in fields.items())
    form = f'<form id="download-form" action="{there}" method="get"><input type="submit">{hidden}</form>'
    return Reply(page("Google Drive - Virus scan warning", f"<p>Too large to scan.</p>{form}"))


def _login(_: Sites, __: Asked) -> Reply:
    return Reply(page("Sign in", '<form method="post"><input type="password"></form>'))


def _shown(hidden: str) -> str:
    return bytes.fromhex(hidden).decode(errors="replace")


_HEX = "((?:[0-9a-f]{2})+)"
_ROUTES: tuple[tuple[re.Pattern[str], Callable[..., Reply]], ...] = tuple(
    (re.compile(route), answer)
    for route, answer in (
        (rf"i\d\.hdslb\.com/bfs/archive/{_HEX}[0-9a-f]{{16}}\.jpg(@.*)?", _bilibili_picture),
        (r"puui\.qpic\.cn/qqvideo_ori/0/(\w+)_\d+_\d+/0", _qpic_picture),
        (r"(?:www|m)\.bilibili\.com/video/(\w+)/?", _bilibili_page),
        (r"api\.bilibili\.com/x/web-interface/view", _bilibili_view),
        (r"www\.kuaishou\.com/short-video/([\w-]+)", _kuaishou_page),
        (rf"p1\.a\.yximgs\.com/upic/{_HEX}\.jpg", _kuaishou_picture),
        (r"www\.douyin\.com/video/(\w+)", _douyin_page),
        (rf"p3\.douyinpic\.com/img/{_HEX}~c5_300x400\.webp", _douyin_picture),
        (r"drive\.google\.com/(uc)", _drive),
        (r"drive\.usercontent\.google\.com/download()", _drive),
        (r"(?:passport|accounts)\..*", _login),
    )
)

_TABLE = bytes(12 + value % 16 for value in range(256))


@cache
def _template() -> tuple[bytes, bytes]:
    """A textured JPEG, 160x100, without the 64 steps of its first quantization table."""
    from PIL import Image

    texture = Image.effect_mandelbrot((256, 256), (-2, -1.5, 1, 1.5), 60)
    bands = (Image.linear_gradient("L"), texture, Image.radial_gradient("L"))
    out = io.BytesIO()
    Image.merge("RGB", bands).resize((160, 100)).save(out, "JPEG", quality=60)
    raw = out.getvalue()
    start = raw.index(b"\xff\xdb") + 5
    return raw[:start], raw[start + 64 :]


@lru_cache(1024)  # a page asks whether there is one, before it is asked for
def draw(platform: str, name: str, seed: int = 0) -> bytes:
    """A picture of its own for each id, in bytes and in pixels: JPEG, but WebP for douyin.

    Only the quantization steps differ, drawn from a hash, and a comment; no encoder runs, so it costs microseconds.
    """
    head, tail = _template()
    drawn = hashlib.sha512(f"{seed}/{platform}/{name}".encode()).digest().translate(_TABLE)
    said = name.encode()[:1000]
    comment = b"\xff\xfe" + (len(said) + 2).to_bytes(2, "big") + said
    picture = head + drawn + comment + tail
    return recoded(picture, "webp", "@112w_70h") if platform == "douyin" else picture


def recoded(picture: bytes, form: str, variant: str = "") -> bytes:
    """A picture as jpeg, png or webp; `@<w>w_<h>h` fits it into that box, `_1e` covers it; never larger than it is."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        sides = {mark: int(size) for size, mark in re.findall(r"(\d+)([wh])", variant)}
        ratios = [sides[m] / side for m, side in zip("wh", image.size, strict=True) if m in sides]
        ratio = min(1.0, (max if "_1e" in variant else min)(ratios, default=1.0))
        width, height = (max(1, round(side * ratio)) for side in image.size)
        image.convert("RGB").resize((width, height)).save(out, form, quality=85, method=0)
    return out.getvalue()
