"""The local origin: each fault does on the wire what its name says, and the sites read as the real ones do."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import io
import json
import re
import socket
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
import requests
from PIL import Image

from downloader import origin as module
from downloader.addresses import Mirror
from downloader.answers import Cover, Outcome, Response
from downloader.origin import FAULTS, KNOWN_PLACEHOLDER, WIRE, Folder, Origin, serving
from downloader.resolvers import bilibili, douyin, kuaishou
from ninerec_data.errors import UsageError

BV = "BV1xx411c7mD"
QPIC = "puui.qpic.cn/qqvideo_ori/0/k0001abc_496_280/0"
FILE = "files.example/release.zip"
CONTENT = hashlib.sha512(b"release").digest() * 2000  # 128,000 bytes


class World:
    """One origin for the whole file: what it does is changed by each test."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.gone: set[str] = set()
        self.files: dict[str, Path | bytes] = {FILE: CONTENT, "drive.google.com/DRIVEID1": CONTENT}
        self.robots = {"www.bilibili.com": "User-agent: *\nDisallow: /secret\n"}
        self.session = requests.Session()
        self.base = ""
        self.origin = self.new()

    def new(self) -> Origin:
        return Origin(files=self.files, faults=self._fault, gone=self.gone, robots=self.robots)

    def _fault(self, key: str, before: int) -> str | None:
        del before
        return self.faults.get(key) or self.faults.get(key.partition("?")[0])

    def ask(self, key: str, method: str = "GET", **headers: str) -> requests.Response:
        """One request, no redirect followed."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.request(
            method, f"{self.base}/{key}", headers=given, allow_redirects=False, timeout=5
        )

    def with_fault(self, fault: str, key: str = QPIC, **headers: str) -> requests.Response:
        self.faults[key] = fault
        return self.ask(key, **headers)

    def raw(self, key: str, fault: str = "") -> bytes:
        """Everything that comes over the wire until the other side closes."""
        if fault:
            self.faults[key] = fault
        got = b""
        with self.connect() as line:
            line.sendall(f"GET /{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            while piece := line.recv(1 << 16):
                got += piece
        return got

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", urlsplit(self.base).port), timeout=5)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    world = World()
    with serving(world.origin) as base:
        world.base = base
        yield world
        world.session.close()


@pytest.fixture
def world(shared: World) -> World:
    shared.faults.clear()
    shared.gone.clear()
    shared.session.cookies.clear()
    return shared


def key_of(url: str) -> str:
    return url.partition("://")[2]


def expiry(key: str) -> int:
    return int(parse_qs(urlsplit(f"//{key}").query)["x-expires"][0])


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def split(wire: bytes) -> tuple[bytes, bytes]:
    head, _, body = wire.partition(b"\r\n\r\n")
    return head, body


def read(resolver: Any, url: str, answer: requests.Response) -> Any:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return resolver.read(url, Response(url, answer.status_code, headers, answer.content))


# Pictures.


def test_each_id_has_a_picture_of_its_own_in_bytes_and_in_pixels(world: World) -> None:
    answers = [world.ask(f"puui.qpic.cn/qqvideo_ori/0/v{n}_496_280/0") for n in range(60)]
    assert len({hashlib.sha256(answer.content).digest() for answer in answers}) == 60
    images = [picture(answer.content) for answer in answers]
    assert len({image.tobytes() for image in images}) == 60
    assert {(image.format, image.size) for image in images} == {("JPEG", (160, 100))}
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/octet-stream"}
    again = world.ask("puui.qpic.cn/qqvideo_ori/0/v7_496_280/0")
    assert again.content == answers[7].content


def test_pictures_differ_with_the_seed_and_the_platform() -> None:
    drawn = {module.draw(p, "a", s) for p in ("bilibili", "kuaishou", "douyin") for s in (0, 1)}
    assert len(drawn) == 6


def test_the_users_pictures_and_titles_are_served(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"of a file")
    held: dict[str, bytes | Path | None] = {"a": file, "b": b"of bytes", "c": None}
    seen = []

    def pictures(platform: str, name: str) -> bytes | Path | None:
        seen.append((platform, name))
        return held[name]

    with serving(Origin(pictures=pictures, titles=str.upper)) as base, requests.Session() as ask:
        got = [ask.get(f"{base}/puui.qpic.cn/qqvideo_ori/0/{n}_496_280/0") for n in "abc"]
        view = ask.get(f"{base}/api.bilibili.com/x/web-interface/view?bvid=b").json()
    assert [(answer.status_code, answer.content[:8]) for answer in got[:2]] == [
        (200, b"of a fil"),
        (200, b"of bytes"),
    ]
    assert got[2].status_code == 404
    assert view["data"]["title"] == "B"
    assert set(seen) == {("qpic", "a"), ("qpic", "b"), ("qpic", "c"), ("bilibili", "b")}


# Sites, read by the resolvers as the real ones are.


def test_bilibili_page_and_view_answer_lead_to_one_cover(world: World) -> None:
    url = f"https://www.bilibili.com/video/{BV}/"
    cover = read(bilibili, url, world.ask(key_of(url)))
    assert isinstance(cover, Cover)
    assert cover.title == f"Title of {BV} 标题"
    assert re.fullmatch(r"https://i[012]\.hdslb\.com/bfs/archive/[0-9a-f]{40}\.jpg", cover.urls[0])
    view = world.ask(f"api.bilibili.com/x/web-interface/view?bvid={BV}").json()
    assert (view["code"], view["data"]["pic"]) == (0, cover.urls[0])
    mobile = world.ask(f"m.bilibili.com/video/{BV}")
    assert mobile.content == world.ask(key_of(url)).content
    assert len(mobile.content) < 4096
    whole = world.ask(key_of(cover.urls[0]), Referer="https://www.bilibili.com/")
    assert whole.headers["Content-Type"] == "image/jpeg"
    assert picture(whole.content).size == (160, 100)


def test_bilibili_scales_down_on_demand_and_refuses_other_sites(world: World) -> None:
    key = key_of(world.origin.sites.cover_url("bilibili", BV))
    small = world.ask(f"{key}@80w_80h")
    assert picture(small.content).size == (80, 50)
    assert len(small.content) < len(world.ask(key).content)
    assert picture(world.ask(f"{key}@80w_40h_1e").content).size == (80, 50)
    assert picture(world.ask(f"{key}@999w_999h").content).size == (160, 100)
    webp = world.ask(f"{key}@100w.webp")
    assert webp.headers["Content-Type"] == "image/webp"
    assert (picture(webp.content).format, picture(webp.content).width) == ("WEBP", 100)
    assert world.ask(key, Referer="https://elsewhere.example/").status_code == 403


def test_what_is_gone_on_bilibili(world: World) -> None:
    url = f"https://www.bilibili.com/video/{BV}"
    cover = key_of(world.origin.sites.cover_url("bilibili", BV))
    assert world.ask(cover).status_code == 200
    world.gone.add(BV)
    answer = world.ask(key_of(url))
    assert answer.status_code == 200
    fault = read(bilibili, url, answer)
    assert (fault.outcome, fault.reason) == (Outcome.GONE, "code_-404")
    view = world.ask(f"api.bilibili.com/x/web-interface/view?bvid={BV}")
    assert (view.status_code, view.json()["code"]) == (200, -404)
    assert world.ask(cover).status_code == 404


def test_kuaishou_gives_a_signed_cover_or_a_null_photo(world: World) -> None:
    url = "https://www.kuaishou.com/short-video/3xabc_d-9"
    cover = read(kuaishou, url, world.ask(key_of(url)))
    assert cover.title == "Title of 3xabc_d-9 标题"
    key = key_of(cover.urls[0])
    assert key.startswith("p1.a.yximgs.com/")
    assert picture(world.ask(key).content).format == "JPEG"
    assert world.ask(key.partition("?")[0]).status_code == 403
    world.gone.add("3xabc_d-9")
    assert read(kuaishou, url, world.ask(key_of(url))).outcome is Outcome.GONE


def test_douyin_covers_are_webp_signed_and_expire(world: World) -> None:
    url = "https://www.douyin.com/video/7001"
    page = world.ask(key_of(url))
    assert '{"app"' not in page.text  # percent-encoded
    key = key_of(read(douyin, url, page).urls[0])
    got = world.ask(key)
    assert got.headers["Content-Type"] == "image/webp"
    assert picture(got.content).format == "WEBP"
    assert expiry(key) > time.time()
    assert world.ask(key.partition("?")[0]).status_code == 403
    assert world.ask(re.sub(r"x-expires=\d", "x-expires=9", key)).status_code == 403
    world.faults[key_of(url)] = "expired"
    old = key_of(read(douyin, url, world.ask(key_of(url))).urls[0])
    assert expiry(old) < time.time()
    assert world.ask(old).status_code == 403


def test_what_is_gone_on_douyin_is_an_empty_record(world: World) -> None:
    world.gone.add("7001")
    url = "https://www.douyin.com/video/7001"
    answer = world.ask(key_of(url))
    assert '"aweme_detail": {}' in unquote(answer.text)
    assert read(douyin, url, answer).outcome is Outcome.GONE


def test_what_is_gone_on_qpic_and_what_no_site_has(world: World) -> None:
    world.gone.add("k0001abc")
    assert world.ask(QPIC).status_code == 404
    assert world.ask("nowhere.example/").status_code == 404
    assert world.ask("").status_code == 404
    assert world.ask("i0.hdslb.com/bfs/archive/ffff0123456789abcdef.jpg").status_code == 200


def test_robots_txt_is_404_unless_given(world: World) -> None:
    assert world.ask("www.bilibili.com/robots.txt").text == world.robots["www.bilibili.com"]
    assert world.ask("puui.qpic.cn/robots.txt").status_code == 404
    assert world.with_fault("503", "puui.qpic.cn/robots.txt").status_code == 503


# Release files.


@pytest.fixture(params=["bytes", "file"])
def release(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[World]:
    if request.param == "file":
        (tmp_path / "release.zip").write_bytes(CONTENT)
        world.files[FILE] = tmp_path / "release.zip"
    yield world
    world.files[FILE] = CONTENT


def test_a_file_is_served_whole_and_in_ranges(release: World) -> None:
    whole = release.ask(FILE)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["Content-Type"] == "application/zip"
    for said, start, end in (
        ("bytes=0-9", 0, 10),
        ("bytes=1000-", 1000, len(CONTENT)),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
        ("bytes=127990-999999", 127990, len(CONTENT)),
    ):
        part = release.ask(FILE, Range=said)
        assert (part.status_code, part.content) == (206, CONTENT[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    past = release.ask(FILE, Range=f"bytes={len(CONTENT)}-")
    assert (past.status_code, past.content) == (416, b"")
    assert past.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    for odd in ("bytes=0-1,5-6", "lines=1-2", "bytes=-"):
        assert release.ask(FILE, Range=odd).status_code == 200


def test_if_range_gives_the_rest_of_the_same_file_only(release: World) -> None:
    head = release.ask(FILE, "HEAD").headers
    for same in (head["ETag"], head["Last-Modified"]):
        assert release.ask(FILE, Range="bytes=5-", If_Range=same).status_code == 206
    other = release.ask(FILE, Range="bytes=5-", If_Range='"another"')
    assert (other.status_code, other.content) == (200, CONTENT)


def test_head_has_the_length_and_no_body(release: World) -> None:
    wire = b""
    with release.connect() as line:
        line.sendall(f"HEAD /{FILE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while piece := line.recv(1 << 16):
            wire += piece
    assert split(wire)[1] == b""
    assert f"Content-Length: {len(CONTENT)}".encode() in wire


def test_a_changed_file_has_another_etag(tmp_path: Path, world: World) -> None:
    file = tmp_path / "a.csv"
    world.files["files.example/a.csv"] = file
    tags = set()
    for content in ("one", "another"):
        file.write_text(content)
        tags.add(world.ask("files.example/a.csv").headers["ETag"])
    assert len(tags) == 2


def test_a_file_is_found_with_its_query_or_without(world: World) -> None:
    world.files |= {"f.example/a?v=1": b"first", "f.example/a": b"any"}
    assert world.ask("f.example/a?v=1").content == b"first"
    assert world.ask("f.example/a?v=2").content == b"any"


def test_drive_asks_to_confirm_and_then_gives_the_bytes_in_ranges(world: World) -> None:
    first = world.ask("drive.google.com/uc?export=download&id=DRIVEID1")
    assert first.status_code == 303
    page = world.ask(key_of(first.headers["Location"]))
    assert page.headers["Content-Type"].startswith("text/html")
    action = re.search(r'<form id="download-form" action="([^"]+)"', page.text)
    assert action
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    assert set(fields) == {"id", "export", "confirm", "uuid"}
    key = f"{key_of(action[1])}?{urlencode(fields)}"
    assert world.ask(key).content == CONTENT
    part = world.ask(key, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, CONTENT[100:200])
    assert "attachment" in part.headers["Content-Disposition"]


def test_drives_refusals(world: World) -> None:
    key = "drive.google.com/uc?export=download&id=DRIVEID1"
    none = world.ask("drive.google.com/uc?export=download&id=NOSUCHID")
    assert (none.status_code, "does not exist" in none.text) == (404, True)
    quota = world.with_fault("quota", key)
    assert quota.status_code == 200
    assert "Too many users have viewed" in quota.text
    assert world.with_fault("drive_gone", key).status_code == 404
    login = world.with_fault("drive_login", key)
    assert login.status_code == 302
    assert 'type="password"' in world.ask(key_of(login.headers["Location"])).text


# Faults that are answers.


@pytest.mark.parametrize("code", [401, 403, 404, 407, 410, 412, 429, 451, 500, 503])
def test_a_status(world: World, code: int) -> None:
    answer = world.with_fault(str(code))
    assert answer.status_code == code
    assert "Retry-After" not in answer.headers


def test_retry_after_in_its_three_forms(world: World) -> None:
    assert world.with_fault("429:7").headers["Retry-After"] == "7"
    date = email.utils.parsedate_to_datetime(world.with_fault("429date:90").headers["Retry-After"])
    assert 80 < date.timestamp() - time.time() < 95
    garbage = world.with_fault("429garbage")
    assert (garbage.status_code, garbage.headers["Retry-After"].isdigit()) == (429, False)


def test_what_says_that_bilibili_will_not_talk(world: World) -> None:
    view = f"api.bilibili.com/x/web-interface/view?bvid={BV}"
    banned = world.with_fault("412", view)
    assert (banned.status_code, banned.json()["code"]) == (412, -412)
    risk = world.with_fault("captcha", view)
    assert (risk.status_code, risk.json()["code"]) == (200, -352)
    for host, resolver in (("bilibili", bilibili), ("kuaishou", kuaishou), ("douyin", douyin)):
        path = {"bilibili": f"video/{BV}", "kuaishou": "short-video/3x", "douyin": "video/7"}[host]
        url = f"https://www.{host}.com/{path}"
        answer = world.with_fault("captcha", key_of(url))
        assert answer.status_code == 200
        assert read(resolver, url, answer).outcome is Outcome.BLOCKED


def test_the_closed_storage(world: World) -> None:
    answer = world.with_fault("409azure", FILE)
    assert (answer.status_code, answer.headers["Content-Type"]) == (409, "application/xml")
    assert "PublicAccessNotPermitted" in answer.text


def test_a_page_in_place_of_a_picture(world: World) -> None:
    page = world.with_fault("html")
    assert (page.status_code, page.content[:9]) == (200, b"<!doctype")
    assert page.headers["Content-Type"].startswith("text/html")
    assert world.with_fault("html:image/jpeg").headers["Content-Type"] == "image/jpeg"
    answer = world.with_fault("json")
    assert (answer.status_code, list(answer.json())) == (200, ["error"])


def test_gone_page_is_the_sites_own(world: World) -> None:
    url = f"https://www.bilibili.com/video/{BV}"
    assert read(bilibili, url, world.with_fault("gone_page", key_of(url))).outcome is Outcome.GONE
    assert world.with_fault("gone_page").status_code == 404


def test_placeholders_are_the_same_for_all(world: World) -> None:
    keys = [f"puui.qpic.cn/qqvideo_ori/0/v{n}_496_280/0" for n in range(3)]
    for fault in ("placeholder", "known_placeholder"):
        got = {world.with_fault(fault, key).content for key in keys}
        assert len(got) == 1
        assert min(picture(got.pop()).size) >= 64
    assert world.with_fault("known_placeholder").content == KNOWN_PLACEHOLDER


def test_bodies_that_are_not_what_they_seem(world: World) -> None:
    good = world.ask(QPIC).content
    assert world.with_fault("empty").content == b""
    assert picture(world.with_fault("pixel").content).size == (1, 1)
    wrong = world.with_fault("wrong_mime")
    assert (wrong.headers["Content-Type"], wrong.content) == ("text/plain", good)
    assert world.with_fault("wrong_mime:text/html").headers["Content-Type"] == "text/html"
    for fault, form in (("png_as_jpg", "PNG"), ("webp_as_jpg", "WEBP")):
        answer = world.with_fault(fault)
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert (picture(answer.content).format, picture(answer.content).size) == (form, (160, 100))


def test_truncated_is_honest_about_its_length(world: World) -> None:
    good = world.ask(QPIC).content
    answer = world.with_fault("truncated")
    assert int(answer.headers["Content-Length"]) == len(answer.content) < len(good)
    assert good.startswith(answer.content)
    with pytest.raises(OSError, match="truncated"):
        picture(answer.content)


def test_gzip_though_identity_was_asked(world: World) -> None:
    good = world.ask(QPIC).content
    head, body = split(world.raw(QPIC, "gzip"))
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == good


def test_the_compressed_bomb(world: World) -> None:
    head, body = split(world.raw(QPIC, "bomb_gzip"))
    assert b"Content-Encoding: gzip" in head
    assert len(body) < 1 << 20
    crc, zeros = 0, bytes(1 << 20)
    for _ in range(200):
        crc = zlib.crc32(zeros, crc)
    assert struct.unpack("<II", body[-8:]) == (crc, 200 << 20)
    assert zlib.decompressobj(wbits=31).decompress(body, 1 << 20) == zeros


def test_the_bomb_of_pixels_is_a_small_and_true_png(world: World) -> None:
    body = world.with_fault("pixel_bomb").content
    assert len(body) < 100_000
    assert struct.unpack(">II", body[16:24]) == (20_000, 20_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(body))


def test_redirects_name_the_sites_own_addresses(world: World) -> None:
    assert world.with_fault("redirect:https://a.example/b").headers["Location"] == (
        "https://a.example/b"
    )
    assert "10.0.0.1" in world.with_fault("redirect_private").headers["Location"]
    down = world.with_fault("downgrade").headers["Location"]
    assert down.startswith("http://puui.qpic.cn/")
    assert world.ask(key_of(down)).status_code == 200
    login = world.with_fault("login", "www.bilibili.com/video/BV1").headers["Location"]
    assert login == "https://passport.bilibili.com/login"
    assert world.ask(key_of(login)).status_code == 200


@pytest.mark.parametrize("key", [QPIC, f"api.bilibili.com/x/web-interface/view?bvid={BV}"])
def test_redirects_end_after_n_hops(world: World, key: str) -> None:
    good = world.ask(key).content
    mirror, answer, hops = Mirror(world.base), world.with_fault("redirects:3", key), 0
    while answer.status_code == 302:
        hops += 1
        asked = mirror.of(answer.headers["Location"])
        answer = world.ask(asked.removeprefix(f"{world.base}/"))
    assert (hops, answer.content) == (3, good)


def test_a_redirect_loop_comes_back_to_itself(world: World) -> None:
    answer, seen = world.with_fault("redirect_loop"), []
    for _ in range(4):
        seen.append(answer.headers["Location"])
        answer = world.ask(key_of(seen[-1]))
    assert seen[0] == seen[2] != seen[1] == seen[3]


def test_faults_of_ranges(world: World) -> None:
    for fault in ("range_ignored", "range_wrong", "416"):
        assert world.with_fault(fault, FILE).content == CONTENT
    ignored = world.with_fault("range_ignored", FILE, Range="bytes=100-")
    assert (ignored.status_code, ignored.content) == (200, CONTENT)
    wrong = world.with_fault("range_wrong", FILE, Range="bytes=100-")
    assert (wrong.status_code, wrong.content) == (206, CONTENT)
    assert wrong.headers["Content-Range"].startswith("bytes 0-")
    none = world.with_fault("416", FILE, Range="bytes=100-")
    assert (none.status_code, none.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")


def test_an_etag_that_changes_defeats_if_range(world: World) -> None:
    tags = [world.with_fault("etag_changes", FILE).headers["ETag"] for _ in range(2)]
    assert tags[0] != tags[1]
    assert world.ask(FILE, Range="bytes=5-", If_Range=tags[1]).status_code == 200


def test_headers_that_come_with_a_good_answer(world: World) -> None:
    robots = world.with_fault("x_robots")
    assert robots.headers["X-Robots-Tag"] == "noai, noimageai"
    assert world.with_fault("x_robots:noindex").headers["X-Robots-Tag"] == "noindex"
    cookie = world.with_fault("cookie")
    assert cookie.headers["Set-Cookie"].startswith("origin=1")
    assert robots.content == cookie.content == world.ask(QPIC, Cookie="a=1").content
    assert world.origin.headers[QPIC]["cookie"] == "a=1"


# Faults of the connection.


def test_short_is_less_than_announced(world: World) -> None:
    for fault, sent in (("short", len(CONTENT) // 2), ("short:1000", 1000)):
        head, body = split(world.raw(FILE, fault))
        assert f"Content-Length: {len(CONTENT)}".encode() in head
        assert body == CONTENT[:sent]


def test_short_cuts_a_range_too(world: World) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="100 bytes read"):
        world.with_fault("short:100", FILE, Range="bytes=1000-")


def test_chunks_that_stop(world: World) -> None:
    head, body = split(world.raw(FILE, "chunked_cut"))
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    assert not body.endswith(b"0\r\n\r\n")
    assert CONTENT[:1000] in body


def test_no_length(world: World) -> None:
    head, body = split(world.raw(FILE, "no_length"))
    assert b"Content-Length" not in head
    assert body.endswith(b"0\r\n\r\n")
    assert world.ask(FILE).content == CONTENT


def test_a_reset_halfway(world: World) -> None:
    with pytest.raises(ConnectionResetError):
        world.raw(QPIC, "reset")


def test_big_has_no_length_and_is_as_big_as_said(world: World) -> None:
    answer = world.with_fault("big:700000")
    assert "Content-Length" not in answer.headers
    assert answer.content == bytes(700_000)


def test_a_slow_body_comes_at_its_rate(world: World) -> None:
    world.faults[QPIC] = "slow_body:2000"
    with world.connect() as line:
        line.sendall(f"GET /{QPIC} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got, started = b"", time.monotonic()
        while time.monotonic() - started < 0.2:
            got += line.recv(1 << 16)
    head, body = split(got)
    assert b"Content-Length: " in head
    assert 100 <= len(body) <= 700


def test_stop_does_not_wait_for_what_hangs() -> None:
    faults = {"a.example/header": "slow_header", FILE: "slow_body:10"}
    before = threading.active_count()
    with serving(Origin(files={FILE: CONTENT}, faults=faults)) as base:
        lines = []
        for key in faults:
            line = socket.create_connection(("127.0.0.1", urlsplit(base).port), timeout=5)
            line.sendall(f"GET /{key} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            lines.append(line)
        assert lines[1].recv(100).startswith(b"HTTP/1.1 200")
        lines[0].settimeout(0.05)
        with pytest.raises(TimeoutError):
            lines[0].recv(1)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert threading.active_count() == before
    lines[0].settimeout(5)
    assert lines[0].recv(100) == b""
    for line in lines:
        line.close()


# The origin itself.


def test_every_fault_is_told_of_and_none_else() -> None:
    told = set(re.findall(r"[a-z0-9_]+", (module.__doc__ or "").split("Faults,")[1]))
    assert {*FAULTS, *WIRE} <= told


def test_an_unknown_fault_is_refused_at_once(world: World) -> None:
    with pytest.raises(UsageError, match=r"'chaptcha'; did you mean 'captcha'\?"):
        Origin(faults={"a": "chaptcha"})
    with pytest.raises(UsageError, match="'200'"):
        Origin(faults={"a": "200"})


def test_faults_by_table_and_by_count() -> None:
    table = {f"{QPIC}?a=1": "403", QPIC: "404"}
    with serving(Origin(faults=table)) as base, requests.Session() as session:
        got = [session.get(f"{base}/{QPIC}{q}").status_code for q in ("?a=1", "?a=2", "")]
    assert got == [403, 404, 404]
    once = Origin(faults=lambda _, before: "503" if before < 2 else None)
    with serving(once) as base, requests.Session() as session:
        got = [session.get(f"{base}/{QPIC}").status_code for _ in range(3)]
    assert got == [503, 503, 200]
    assert once.requests == {QPIC: 3}
    assert [key for _, key in once.log] == [QPIC] * 3


def test_what_is_kept_of_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 2)
    origin = Origin()
    with serving(origin) as base, requests.Session() as session:
        for name in "abc":
            session.get(f"{base}/h.example/{name}", headers={"User-Agent": name})
    assert {k: h["User-Agent"] for k, h in origin.headers.items()} == {
        "h.example/b": "b",
        "h.example/c": "c",
    }


def test_a_host_above_its_rate_says_429() -> None:
    origin = Origin(max_rps={"puui.qpic.cn": 2}, latency=0.001)
    with serving(origin) as base, requests.Session() as session:
        got = [session.get(f"{base}/{QPIC}") for _ in range(6)]
        other = session.get(f"{base}/www.bilibili.com/video/{BV}")
    codes = [answer.status_code for answer in got]
    assert codes[0] == 200
    assert codes[3:] == [429] * 3
    assert got[-1].headers["Retry-After"] == "1"
    assert other.status_code == 200


def test_refused_asks_do_not_put_off_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    origin = Origin(max_rps={"h": 2})
    assert [origin._above_rate("h") for _ in range(9)] == [False] * 3 + [True] * 6
    now = 100.6
    assert [origin._above_rate("h") for _ in range(3)] == [False, True, True]


def test_ports_and_escapes_arrive_as_they_were(world: World) -> None:
    url = Mirror(world.base).of("http://h.example:8080/a%2Fb%20c?x=%E4%B8%AD&y=+")
    world.session.get(url)
    assert world.origin.requests["h.example:8080/a%2Fb%20c?x=%E4%B8%AD&y=+"] == 1


def test_a_folder_is_served_as_it_lies(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "h.example" / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    folder = Folder(root)
    (root / "h.example" / "deep" / "中 a.csv").write_bytes(b"1,2")
    assert list(folder) == ["h.example/deep/中 a.csv"]
    assert len(folder) == 1
    with serving(Origin(files=folder)) as base, requests.Session() as session:
        assert session.get(f"{base}/h.example/deep/%E4%B8%AD%20a.csv?v=2").content == b"1,2"
        assert session.get(f"{base}/h.example/deep").status_code == 404
        assert session.get(f"{base}/h.example/%2E%2E%2F%2E%2E%2Fsecret").status_code == 404


def test_the_command_says_where_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h.example").mkdir()
    (tmp_path / "h.example" / "a").write_bytes(b"here")
    said = []

    def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return real(self, timeout)
        if written := capsys.readouterr().out:
            said.append(requests.get(f"{written.strip()}/h.example/a", timeout=5).content)
            raise KeyboardInterrupt
        return real(self, timeout)

    real = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", interrupted)
    module.main([str(tmp_path)])
    assert said == [b"here"]
    with pytest.raises(SystemExit):
        module.main([str(tmp_path / "none")])
    assert "none is no folder" in capsys.readouterr().err


def test_nothing_is_left_open() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with serving(Origin()) as base, requests.Session() as session:
            assert json.loads(
                session.get(f"{base}/api.bilibili.com/x/web-interface/view?bvid=a").text
            )
        with pytest.raises(requests.ConnectionError):
            requests.get(base, timeout=5)
