"""Release files: fetched whole, gone on with after a kill, never taken from an error page, asked only where it may."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import itertools
import json
import lzma
import shutil
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from downloader.addresses import MAX_HOPS, Guard, Mirror
from downloader.answers import Fault, Outcome
from downloader.drive import drive_id
from downloader.files import TRIES, Fetched, Place, fetch_file
from downloader.web import Timeouts, Web
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.files import lock

BODY = hashlib.shake_256(b"a release").digest(300_000)
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
URL = "https://data.example/release.bin"
ETAG = {"ETag": '"v1"'}
AGENT = "ninerec/test (+mailto:someone@example.org)"


class Handler(BaseHTTPRequestHandler):
    """Answers by the host's table of paths and keeps what was asked."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        answer = self.server.answers.get(self.path.partition("?")[0])
        if answer:
            answer(self)
        else:
            self.reply(404, b"nothing here")

    do_CONNECT = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: Any) -> None:
        """A response; a header name's `_` is `-`. `cut` sends that many bytes of the body only, then hangs up."""
        cut = headers.pop("cut", None)
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None

    def log_message(self, *args: object) -> None:
        pass


class Host(ThreadingHTTPServer):
    """A host of the test's own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.done = threading.Event()  # what an answer that hangs waits for

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no error here."""


@contextmanager
def running() -> Iterator[Host]:
    host = Host()
    thread = threading.Thread(target=host.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield host
    finally:
        host.done.set()
        host.shutdown()
        thread.join()
        host.server_close()


@pytest.fixture
def host() -> Iterator[Host]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web(host: Host) -> Iterator[Web]:
    """Every origin is played by the host."""
    with closing(Web(Guard(Mirror(f"http://{host.name}")), AGENT, QUICK)) as opened:
        yield opened


QUICK = Timeouts(connect=2, first_byte=2)


def serve(
    host: Host,
    body: bytes = BODY,
    url: str = URL,
    *,
    headers: dict[str, str] = ETAG,
    cut: int | None = None,
) -> None:
    """Play an origin that knows Range and If-Range. cut: bytes of each response after which it hangs up."""

    def answer(request: Handler) -> None:
        wanted = request.headers.get("Range")
        if wanted and request.headers.get("If-Range") in headers.values():
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                request.reply(416, b"too far", Content_Range=f"bytes */{len(body)}")
                return
            said = f"bytes {start}-{len(body) - 1}/{len(body)}"
            request.reply(206, body[start:], Content_Range=said, cut=cut, **headers)
        else:
            request.reply(200, body, cut=cut, **headers)

    host.answers["/" + url.partition("//")[2]] = answer


def fetch(web: Web, target: Path, *urls: str, kind: str = "http", **known: Any) -> Fetched:
    places = [Place(kind=kind, url=url) for url in urls or (URL,)]
    return fetch_file(web, places, target, **{"sleep": _never, **known})


def _never(seconds: float) -> None:
    pytest.fail(f"waited {seconds} s")


class Killed(BaseException):
    pass


def killed_after(count: int) -> Callable[[int, int | None], None]:
    def tell(held: int, total: int | None) -> None:
        if held >= count:
            raise Killed

    return tell


def kill(web: Web, target: Path, count: int = 100_000, **known: Any) -> int:
    """Fetch, be killed, and say how much the part holds."""
    with pytest.raises(Killed):
        fetch(web, target, tell=killed_after(count), **known)
    assert not target.exists()
    held = (target.parent / f".{target.name}.part").stat().st_size
    assert count <= held < len(BODY)
    return held


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "files" / "release.bin"


def left(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {f".{target.name}.lock"}


class TestWhole:
    def test_the_bytes_and_what_is_said_of_them(self, host: Host, web: Web, target: Path) -> None:
        serve(host)
        told: list[tuple[int, int | None]] = []
        url = URL.replace("//", "//user:secret@")
        got = fetch(web, target, url, size=len(BODY), sha256=SHA256, tell=lambda *a: told.append(a))
        assert target.read_bytes() == BODY
        assert got == Fetched(
            path=target,
            sha256=SHA256,
            size=len(BODY),
            source=URL,
            sent=len(BODY),
            resumed_from=0,
        )
        assert left(target) == {"release.bin"}
        assert told[-1] == (len(BODY), len(BODY))

    def test_who_asks_is_said_and_no_cookie_is_kept(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host, headers={"Set-Cookie": "a=b; Path=/"})
        fetch(web, target)
        fetch(web, target)
        for _, headers in host.asked:
            assert headers["user-agent"] == AGENT
            assert headers["accept-encoding"] == "identity"
            assert "cookie" not in headers
            assert "range" not in headers

    def test_a_body_without_length(self, host: Host, web: Web, target: Path) -> None:
        def chunked(request: Handler) -> None:
            request.reply(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", **CHUNKED)

        host.answers["/data.example/release.bin"] = chunked
        assert fetch(web, target).size == 5
        assert target.read_bytes() == b"abcde"

    def test_one_process_at_a_time(self, host: Host, web: Web, target: Path) -> None:
        with (
            lock(target.with_name(".release.bin.lock")),
            pytest.raises(UsageError, match="another"),
        ):
            fetch(web, target)
        assert not host.asked


CHUNKED = {"Content_Length": None, "Transfer_Encoding": "chunked"}


class TestGoingOn:
    @pytest.mark.parametrize(
        ("headers", "validator"),
        [
            (ETAG, '"v1"'),
            ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
            ({"ETag": 'W/"v1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan"),
        ],
    )
    def test_exactly_the_rest_is_sent(
        self, host: Host, web: Web, target: Path, headers: dict[str, str], validator: str
    ) -> None:
        serve(host, headers=headers)
        held = kill(web, target)
        got = fetch(web, target, sha256=SHA256)
        assert (got.resumed_from, got.sent) == (held, len(BODY) - held)
        assert target.read_bytes() == BODY
        assert host.ranges == [None, f"bytes={held}-"]
        assert host.asked[1][1]["if-range"].startswith(validator)
        assert left(target) == {"release.bin"}

    def test_the_note_holds_no_secret(self, host: Host, web: Web, target: Path) -> None:
        url = f"{URL}?X-Amz-Signature=s3cr3t"
        serve(host)
        with pytest.raises(Killed):
            fetch(web, target, url, tell=killed_after(1))
        note = (target.parent / ".release.bin.part.json").read_text()
        assert json.loads(note)["size"] == len(BODY)
        assert "s3cr3t" not in note
        assert fetch(web, target, url).resumed_from > 0

    @pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"v1"'}])
    def test_without_a_validator_it_starts_anew(
        self, host: Host, web: Web, target: Path, headers: dict[str, str]
    ) -> None:
        serve(host, headers=headers)
        kill(web, target)
        assert fetch(web, target, sha256=SHA256).resumed_from == 0
        assert host.ranges == [None, None]

    @pytest.mark.parametrize("note", ['{"url_sha256": "', "{}", None])
    def test_a_note_that_is_torn_or_gone_starts_anew(
        self, host: Host, web: Web, target: Path, note: str | None
    ) -> None:
        serve(host)
        kill(web, target)
        path = target.parent / ".release.bin.part.json"
        path.unlink() if note is None else path.write_text(note)
        assert fetch(web, target, sha256=SHA256).resumed_from == 0

    def test_a_file_that_changed_replaces_the_part(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        kill(web, target)
        serve(host, BODY[::-1], headers={"ETag": '"v2"'})
        got = fetch(web, target)
        assert target.read_bytes() == BODY[::-1]
        assert (got.resumed_from, got.sent) == (0, len(BODY))
        assert got.sha256 == f"sha256:{hashlib.sha256(BODY[::-1]).hexdigest()}"

    def test_of_another_address_nothing_is_gone_on_with(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        kill(web, target)
        other = "https://mirror.example/release.bin"
        serve(host, BODY[::-1], other)
        fetch(web, target, other)
        assert target.read_bytes() == BODY[::-1]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"Content_Range": "bytes 7-299999/300000"},
            {"Content_Range": "bytes HELD-399999/400000"},
            {"Content_Range": "bytes HELD-299999/300000", "ETag": '"v2"'},
            {"Content_Range": "items HELD-299999/300000"},
            {},
        ],
    )
    def test_a_wrong_206_starts_anew(
        self, host: Host, web: Web, target: Path, wrong: dict[str, str]
    ) -> None:
        serve(host)
        held = kill(web, target)
        right = host.answers["/data.example/release.bin"]

        def answer(request: Handler) -> None:
            if "Range" not in request.headers:
                right(request)
                return
            said = {name: value.replace("HELD", str(held)) for name, value in wrong.items()}
            request.reply(206, BODY[held:], **said)

        host.answers["/data.example/release.bin"] = answer
        assert fetch(web, target, sha256=SHA256).resumed_from == 0
        assert host.ranges == [None, f"bytes={held}-", None]

    def test_a_206_that_was_not_asked_for_is_refused(
        self, host: Host, web: Web, target: Path
    ) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            206, BODY[9:], Content_Range="bytes 9-299999/300000"
        )
        assert refused(web, target).reason == "content_range"
        assert left(target) == set()

    def test_416_of_a_whole_part_is_taken_after_the_check(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        kill(web, target)
        (target.parent / ".release.bin.part").write_bytes(BODY)
        got = fetch(web, target, sha256=SHA256)
        assert (got.sent, got.resumed_from) == (0, len(BODY))
        assert target.read_bytes() == BODY

    def test_416_of_any_other_part_starts_anew(self, host: Host, web: Web, target: Path) -> None:
        serve(host)
        kill(web, target)
        (target.parent / ".release.bin.part").write_bytes(BODY + b"more")
        assert fetch(web, target, sha256=SHA256).resumed_from == 0
        assert len(host.asked) == 3

    @pytest.mark.parametrize("status", [404, 500])
    def test_an_error_body_is_never_appended(
        self, host: Host, web: Web, target: Path, status: int
    ) -> None:
        serve(host)
        held = kill(web, target)
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            status, b"an error" * 100
        )
        refused(web, target, sleep=lambda seconds: None)
        assert (target.parent / ".release.bin.part").read_bytes() == BODY[:held]
        serve(host)
        assert fetch(web, target, sha256=SHA256).resumed_from == held

    def test_lines_that_break_are_gone_on_with_while_it_gets_further(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host, cut=70_000)
        waits: list[float] = []
        got = fetch(web, target, sha256=SHA256, sleep=waits.append)
        assert (got.sent, got.resumed_from) == (len(BODY), 0)
        assert len(host.asked) == 5 > TRIES
        assert len(waits) == 4

    def test_a_line_that_breaks_at_the_same_byte_ends(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host, headers={}, cut=200_000)
        waits: list[float] = []
        fault = refused(web, target, sleep=waits.append)
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "truncated")
        assert len(host.asked) == TRIES
        assert all(0 <= wait <= 60 for wait in waits)


def refused(web: Web, target: Path, *urls: str, **known: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        fetch(web, target, *urls, **known)
    assert not target.exists()
    return caught.value


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "outcome", "reason"),
        [
            (404, Outcome.GONE, "http_404"),
            (410, Outcome.GONE, "http_410"),
            (451, Outcome.GONE, "legal"),
            (401, Outcome.CONFIG, "http_401"),
            (407, Outcome.CONFIG, "http_407"),
            (403, Outcome.BLOCKED, "forbidden"),
            (412, Outcome.BLOCKED, "http_412"),
            (409, Outcome.REJECTED, "http_409"),
            (418, Outcome.REJECTED, "http_418"),
            (204, Outcome.REJECTED, "http_204"),
        ],
    )
    def test_a_status_that_settles_is_asked_once(
        self,
        host: Host,
        web: Web,
        target: Path,
        status: int,
        outcome: Outcome,
        reason: str,
    ) -> None:
        body = b"" if status == 204 else b"<html>no</html>"
        host.answers["/data.example/release.bin"] = lambda request: request.reply(status, body)
        fault = refused(web, target)
        assert (fault.outcome, fault.reason, fault.status) == (outcome, reason, status)
        assert left(target) == set()
        assert len(host.asked) == 1

    def test_a_closed_container_is_named(self, host: Host, web: Web, target: Path) -> None:
        body = b"<?xml version='1.0'?><Error><Code>PublicAccessNotPermitted</Code></Error>"
        host.answers["/data.example/release.bin"] = lambda request: request.reply(409, body)
        fault = refused(web, target)
        assert (fault.outcome, fault.reason) == (Outcome.GONE, "closed")
        assert "closed to the public since 2024" in fault.detail

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_a_faulty_host_is_asked_again_with_longer_waits(
        self, host: Host, web: Web, target: Path, status: int
    ) -> None:
        waits: list[float] = []
        host.answers["/data.example/release.bin"] = lambda request: request.reply(status)
        fault = refused(web, target, sleep=waits.append)
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, f"http_{status}")
        assert len(host.asked) == TRIES == len(waits) + 1

    def test_a_short_wait_that_the_host_asks_for_is_waited(
        self, host: Host, web: Web, target: Path
    ) -> None:
        waits: list[float] = []

        def busy(request: Handler) -> None:
            serve(host)
            request.reply(429, Retry_After=7)

        host.answers["/data.example/release.bin"] = busy
        fetch(web, target, sleep=waits.append)
        assert waits == [7.0]

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_long_wait_is_an_outcome(
        self, host: Host, web: Web, target: Path, status: int
    ) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            status, Retry_After=90
        )
        fault = refused(web, target)
        assert (fault.outcome, fault.pause) == (Outcome.BLOCKED, 90.0)

    def test_a_host_that_stays_busy_blocks(self, host: Host, web: Web, target: Path) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(429)
        fault = refused(web, target, sleep=lambda seconds: None)
        assert (fault.outcome, fault.reason) == (Outcome.BLOCKED, "http_429")
        assert len(host.asked) == TRIES

    def test_the_next_place_gives_it_and_is_named(self, host: Host, web: Web, target: Path) -> None:
        other = "https://mirror.example/copy.bin"
        serve(host, url=other)
        assert fetch(web, target, URL, "file:///etc/passwd", other).source == other

    def test_of_many_refusals_each_is_told_and_the_hopeful_counts(
        self, host: Host, web: Web, target: Path
    ) -> None:
        host.answers["/b.example/b"] = lambda request: request.reply(403)
        fault = refused(web, target, URL, "https://b.example/b?token=abc", "ftp://c.example/c")
        assert (fault.outcome, fault.reason) == (Outcome.BLOCKED, "forbidden")
        assert "data.example/release.bin: GONE http_404" in fault.detail
        assert "b.example/b?...: BLOCKED forbidden" in fault.detail
        assert "ftp://c.example/c: CONFIG scheme" in fault.detail
        assert "abc" not in str(fault)

    def test_without_a_place_there_is_none(self, web: Web, target: Path) -> None:
        with pytest.raises(Fault, match=r"UNMAPPED no_place.*release\.bin"):
            fetch_file(web, [], target)


def packed(name: str) -> bytes:
    held = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr("a", b"a" * 600)
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=held, mode="w") as tar:
            info = tarfile.TarInfo("a")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"aaa"))
    else:
        packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        return packers[name.rpartition(".")[2]](b"a" * 600)
    return held.getvalue()


class TestWhatComes:
    @pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.bz2", "a.tar.xz"])
    def test_archives_are_known_by_their_bytes(
        self, host: Host, web: Web, tmp_path: Path, name: str
    ) -> None:
        target = tmp_path / name
        serve(host, packed(name))
        assert fetch(web, target).size == len(packed(name))
        target.unlink()
        serve(host, b"not what the name says" * 40)
        assert refused(web, target).reason == "magic"
        assert left(target) == set()

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("a.zip", b"\xef\xbb\xbf\r\n <!DOCTYPE html><title>Quota &amp;\n exceeded</title>"),
            ("a.csv", b"<html><head><title>Quota &amp; exceeded</title>"),
            ("a.tar.gz", b"<?xml version='1.0'?><title>Quota &amp; exceeded</title>"),
            ("a.csv", b'{"error": "<title>Quota &amp; exceeded</title>"}'),
        ],
    )
    def test_a_page_is_no_file(
        self, host: Host, web: Web, tmp_path: Path, name: str, body: bytes
    ) -> None:
        serve(host, body, headers={"Content-Type": "application/zip"})
        fault = refused(web, tmp_path / name, size=468_000_000)
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "error_page")
        assert "'Quota & exceeded'" in fault.detail
        assert left(tmp_path / name) == set()

    @pytest.mark.parametrize(
        ("name", "body"), [("a.html", b"<html>"), ("a.json", b"{}"), ("a.xml", b"<?xml?>")]
    )
    def test_a_page_may_be_what_is_wanted(
        self, host: Host, web: Web, tmp_path: Path, name: str, body: bytes
    ) -> None:
        serve(host, body)
        assert fetch(web, tmp_path / name).size == len(body)

    def test_a_git_lfs_pointer_is_no_file(self, host: Host, web: Web, target: Path) -> None:
        serve(host, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        assert refused(web, target).reason == "lfs_pointer"

    def test_nothing_is_no_file(self, host: Host, web: Web, target: Path) -> None:
        serve(host, b"")
        assert refused(web, target).outcome is Outcome.REJECTED

    def test_an_encoding_that_was_not_asked_for(self, host: Host, web: Web, target: Path) -> None:
        serve(host, gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
        assert refused(web, target).reason == "encoding"
        assert fetch(web, target.with_name("a.gz")).size == len(gzip.compress(BODY))

    def test_other_bytes_than_expected_are_not_kept(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        fault = refused(web, target, sha256="0" * 64)
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "sha256")
        assert SHA256 in fault.detail
        assert left(target) == set()

    def test_another_size_is_seen_before_the_body(self, host: Host, web: Web, target: Path) -> None:
        serve(host)
        tell = killed_after(0)
        fault = refused(web, target, size=5, tell=tell)
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "size")
        assert "300,000 bytes where 5 are expected" in fault.detail

    def test_another_size_is_seen_of_a_part_that_was_gone_on_with(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        kill(web, target)
        assert refused(web, target, size=len(BODY) + 1).reason == "size"
        assert left(target) == set()

    @pytest.mark.parametrize(
        ("size", "outcome", "reason"),
        [(4, Outcome.REJECTED, "size"), (6, Outcome.TRANSIENT, "truncated")],
    )
    def test_another_size_is_seen_where_none_is_said(
        self, host: Host, web: Web, target: Path, size: int, outcome: Outcome, reason: str
    ) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            200, b"5\r\nabcde\r\n0\r\n\r\n", **CHUNKED
        )
        fault = refused(web, target, size=size, sleep=lambda seconds: None)
        assert (fault.outcome, fault.reason) == (outcome, reason)

    def test_a_body_without_end_is_left(self, host: Host, web: Web, target: Path) -> None:
        def endless(request: Handler) -> None:
            request.reply(200, **CHUNKED)
            while not host.done.is_set():
                request.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")

        host.answers["/data.example/release.bin"] = endless
        fault = refused(web, target, size=1000, tell=killed_after(1 << 22))
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "size")
        assert left(target) == set()


class TestSpace:
    @pytest.fixture
    def _little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage("/")._replace(free=250_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    @pytest.mark.usefixtures("_little")
    def test_a_known_size_is_compared_before_asking(
        self, host: Host, web: Web, target: Path
    ) -> None:
        with pytest.raises(CheckFailed, match=r"release\.bin needs 300,000 .* 250,000 are free"):
            fetch(web, target, size=len(BODY))
        assert not host.asked

    @pytest.mark.usefixtures("_little")
    def test_a_size_that_is_said_is_compared_before_the_body(
        self, host: Host, web: Web, target: Path
    ) -> None:
        serve(host)
        with pytest.raises(CheckFailed, match="250,000 are free"):
            fetch(web, target, URL, "https://never.example/asked", tell=killed_after(0))
        assert len(host.asked) == 1

    @pytest.mark.usefixtures("_little")
    def test_what_is_held_needs_no_space(self, host: Host, web: Web, target: Path) -> None:
        serve(host)
        target.parent.mkdir()
        (target.parent / ".release.bin.part").write_bytes(BODY[:100_000])
        assert fetch(web, target, size=len(BODY)).size == len(BODY)

    def test_a_disk_that_fills_up_keeps_the_part(self, host: Host, web: Web, target: Path) -> None:
        serve(host)

        def full(held: int, total: int | None) -> None:
            if held > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(CheckFailed, match=r"What came so far is kept"):
            fetch(web, target, tell=full)
        got = fetch(web, target, sha256=SHA256)
        assert got.resumed_from > 100_000


def ask(web: Web, url: str, headers: dict[str, str] | None = None) -> bytes:
    with web.open(url, headers or {}) as answer:
        return b"".join(answer.chunks())


def fault_of(web: Web, url: str) -> Fault:
    with pytest.raises(Fault) as caught:
        ask(web, url)
    return caught.value


@pytest.fixture
def direct(host: Host) -> Iterator[Web]:
    """Asks the host itself, which the user named."""
    with closing(Web(Guard(allowed=[host.name]), AGENT, QUICK)) as opened:
        yield opened


class TestWhereItMayGo:
    def test_redirects_are_mapped_hop_by_hop(self, host: Host, web: Web) -> None:
        serve(host, b"there", "https://b.example/%E4%BD%A0?q=a%2Fb".partition("?")[0])
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            302, Location="https://b.example/%E4%BD%A0?q=a%2Fb"
        )
        with web.open(URL) as answer:
            assert b"".join(answer.chunks()) == b"there"
            assert answer.url == "https://b.example/%E4%BD%A0?q=a%2Fb"
            assert answer.hops == (URL,)
        assert host.asked[1][0] == "/b.example/%E4%BD%A0?q=a%2Fb"

    def test_a_redirect_in_utf_8(self, host: Host, web: Web) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            302, Location="/\u4f60".encode().decode("latin-1")
        )
        serve(host, b"there", "https://data.example/%E4%BD%A0")
        assert ask(web, URL) == b"there"

    def test_a_loop_ends(self, host: Host, web: Web) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(302, Location=URL)
        fault = fault_of(web, URL)
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "redirect_loop")
        assert len(host.asked) == MAX_HOPS + 1

    def test_as_many_hops_as_are_allowed(self, host: Host, web: Web) -> None:
        for hop in range(MAX_HOPS):
            host.answers[f"/a.example/{hop}"] = lambda request, hop=hop: request.reply(
                301, Location=f"/{hop + 1}"
            )
        serve(host, b"there", f"https://a.example/{MAX_HOPS}")
        assert ask(web, "https://a.example/0") == b"there"

    def test_the_body_of_a_redirect_is_not_read(self, host: Host, web: Web) -> None:
        def endless(request: Handler) -> None:
            request.reply(302, Location="/there", Content_Length=10**12)
            host.done.wait(5)

        host.answers["/data.example/release.bin"] = endless
        serve(host, b"there", "https://data.example/there")
        assert ask(web, URL) == b"there"

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("http://data.example/x", "downgrade"),
            ("https://10.0.0.1/x", "private_address"),
            ("https://[::ffff:127.0.0.1]/x", "private_address"),
            ("https://169.254.169.254/latest/meta-data", "private_address"),
            ("https://data.example:22/", "port"),
            ("file:///etc/passwd", "scheme"),
        ],
    )
    def test_a_redirect_that_must_not_be_followed(
        self, host: Host, web: Web, location: str, reason: str
    ) -> None:
        host.answers["/data.example/release.bin"] = lambda request: request.reply(
            302, Location=location
        )
        fault = fault_of(web, URL)
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, reason)
        assert len(host.asked) == 1

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.example/", "data:,x"])
    def test_an_address_of_another_kind(self, web: Web, url: str) -> None:
        assert fault_of(web, url).outcome is Outcome.CONFIG

    @pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://0.0.0.0/"])
    def test_a_private_address_is_not_asked(self, url: str) -> None:
        with closing(Web(Guard(), AGENT)) as web:
            assert fault_of(web, url).reason == "private_address"

    def test_a_name_that_leads_to_a_private_address_is_not_spoken_to(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = socket.getaddrinfo
        port = host.server_port
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda name, *args, **kw: real("127.0.0.1", port, *args[1:], **kw),
        )
        serve(host, b"secret", f"http://{host.name}/")
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            fault = fault_of(web, "http://public.example/")
        assert (fault.outcome, fault.reason) == (Outcome.REJECTED, "private_address")
        assert "--allow-host public.example" in fault.detail
        assert not host.asked
        host.answers["/"] = lambda request: request.reply(200, b"named")
        with closing(Web(Guard(allowed=["public.example"]), AGENT, QUICK)) as web:
            assert ask(web, "http://public.example/") == b"named"

    def test_secrets_go_to_their_own_origin_only(self, host: Host, direct: Web) -> None:
        with running() as other:
            direct.guard.allowed.append(other.name)  # type: ignore[attr-defined]
            host.answers["/a"] = lambda request: request.reply(302, Location="/b")
            host.answers["/b"] = lambda request: request.reply(
                302, Location=f"http://{other.name}/c"
            )
            other.answers["/c"] = lambda request: request.reply(200, b"there")
            sent = {"Authorization": "Bearer abc", "Cookie": "a=b", "X-Kept": "1"}
            ask(direct, f"http://{host.name}/a", sent)
            ask(direct, f"http://user:pw@{host.name}/a")
            seen = [headers.get("authorization") for _, headers in host.asked]
            assert seen == ["Bearer abc"] * 2 + ["Basic dXNlcjpwdw=="] * 2
            assert [headers.get("authorization") for _, headers in other.asked] == [None, None]
            assert other.asked[0][1]["x-kept"] == "1"
            assert not any("cookie" in headers for _, headers in host.asked + other.asked)

    def test_secrets_of_an_origin_do_not_go_to_its_mirror(self, host: Host) -> None:
        with closing(Web(Guard(Mirror(f"http://me:pw@{host.name}/m")), AGENT, QUICK)) as web:
            ask(web, "https://user:other@data.example/x")
        path, headers = host.asked[0]
        assert path == "/m/data.example/x"
        assert headers["authorization"] == "Basic bWU6cHc="

    def test_netrc_is_left_alone(
        self, host: Host, direct: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("default login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        ask(direct, f"http://{host.name}/x")
        assert "authorization" not in host.asked[0][1]


class TestOnTheWay:
    def test_refused(self, direct: Web, host: Host) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            name = f"127.0.0.1:{sock.getsockname()[1]}"
            direct.guard.allowed.append(name)  # type: ignore[attr-defined]
            fault = fault_of(direct, f"http://{name}/?token=abc")
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "refused")
        assert "abc" not in str(fault)

    @pytest.mark.parametrize(("head", "reason"), [(b"", "reset"), (b"x" * 9, "truncated")])
    def test_hung_up(self, host: Host, direct: Web, head: bytes, reason: str) -> None:
        def hang_up(request: Handler) -> None:
            if head:
                request.reply(200, head, Content_Length=1000)
            request.close_connection = True

        host.answers["/x"] = hang_up
        assert fault_of(direct, f"http://{host.name}/x").reason == reason

    def test_reset_in_the_middle(self, host: Host, direct: Web) -> None:
        def reset(request: Handler) -> None:
            request.reply(200, b"x" * 9, Content_Length=1000)
            now = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            request.close_connection = True
            request.connection.close()

        host.answers["/x"] = reset
        fault = fault_of(direct, f"http://{host.name}/x")
        assert fault.outcome is Outcome.TRANSIENT
        assert fault.reason in ("reset", "truncated")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (socket.gaierror(socket.EAI_NONAME, "unknown"), "no_such_host"),
            (socket.gaierror(socket.EAI_AGAIN, "later"), "dns"),
        ],
    )
    def test_names(self, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str) -> None:
        def fail(*args: object, **kw: object) -> None:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            fault = fault_of(web, "https://no.example/x?token=abc")
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, reason)
        assert "no.example" in fault.detail
        assert "abc" not in str(fault)

    def test_connect_timeout(self, direct: Web, host: Host, monkeypatch: Any) -> None:
        def late(*args: object) -> None:
            raise TimeoutError

        monkeypatch.setattr(socket.socket, "connect", late)
        fault = fault_of(direct, f"http://{host.name}/x")
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "connect_timeout")

    @pytest.mark.parametrize("head", [False, True])
    def test_silence(self, host: Host, head: bool) -> None:
        def silent(request: Handler) -> None:
            if head:
                request.reply(200, b"x", Content_Length=9)
            host.done.wait(5)

        host.answers["/x"] = silent
        limits = Timeouts(first_byte=0.05)
        with closing(Web(Guard(allowed=[host.name]), AGENT, limits)) as web:
            fault = fault_of(web, f"http://{host.name}/x")
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "read_timeout")

    @pytest.mark.parametrize("where", ["head", "body", "chunk"])
    def test_a_drip_ends(self, host: Host, where: str) -> None:
        """One byte now and then: each read is quick enough, all together are not."""

        def drip(request: Handler) -> None:
            if where != "head":
                request.reply(200, **(CHUNKED if where == "chunk" else {"Content_Length": 10**6}))
            for _ in range(2000):
                request.wfile.write(b"1" if where == "chunk" else b"x")
                if host.done.wait(0.001):
                    break

        host.answers["/x"] = drip
        ticks = itertools.count(0, 2.0)  # seconds between any two looks at the clock
        web = Web(Guard(allowed=[host.name]), AGENT, clock=lambda: next(ticks))
        with closing(web):
            fault = fault_of(web, f"http://{host.name}/x")
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "too_slow")

    def test_the_wait_for_the_head_does_not_count_for_the_body(self, host: Host) -> None:
        def late(request: Handler) -> None:
            request.reply(200, Content_Length=5)
            host.done.wait(0.02)
            request.wfile.write(b"there")

        host.answers["/x"] = late
        ticks = itertools.count(0, 6.0)
        web = Web(Guard(allowed=[host.name]), AGENT, clock=lambda: next(ticks))
        with closing(web):
            assert ask(web, f"http://{host.name}/x") == b"there"

    def test_no_longer_than_the_total(self, host: Host) -> None:
        serve(host, url=f"http://{host.name}/x")
        host.answers["/x"] = lambda request: request.reply(200, BODY)
        ticks = itertools.count(0, 2.0)
        limits = Timeouts(total=3, slowest=1)
        web = Web(Guard(allowed=[host.name]), AGENT, limits, clock=lambda: next(ticks))
        with closing(web):
            assert fault_of(web, f"http://{host.name}/x").reason == "total_timeout"

    def test_a_certificate_that_nobody_vouches_for(self, host: Host, tmp_path: Path) -> None:
        if not shutil.which("openssl"):
            pytest.skip("no openssl to make a certificate with")
        pem = tmp_path / "both.pem"
        made = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=a"
        )
        subprocess.run(
            [*made.split(), "-keyout", str(pem), "-out", str(tmp_path / "cert")],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert", pem)
        host.socket = context.wrap_socket(host.socket, server_side=True)
        with closing(Web(Guard(allowed=[host.name]), AGENT, QUICK)) as web:
            fault = fault_of(web, f"https://{host.name}/x")
        assert (fault.outcome, fault.reason) == (Outcome.CONFIG, "certificate")
        assert not host.asked

    def test_a_file_of_certificates_that_is_not_there(self, monkeypatch: Any) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            assert fault_of(web, "https://public.example/").outcome is Outcome.CONFIG


class TestProxies:
    def test_of_the_environment_are_used_and_names_alone_checked(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://me:pw@{host.name}")
        host.answers["http://public.example/x"] = lambda request: request.reply(200, b"through")
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            assert ask(web, "http://public.example/x") == b"through"
            assert host.asked[0][1]["proxy-authorization"] == "Basic bWU6cHc="
            assert fault_of(web, "http://192.168.1.1/").reason == "private_address"
        assert len(host.asked) == 1

    def test_a_drip_through_one_ends(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", f"http://{host.name}")

        def drip(request: Handler) -> None:
            request.reply(200, Content_Length=100)
            for _ in range(100):
                request.wfile.write(b"x")
                if host.done.wait(0.001):
                    break

        host.answers["http://public.example/x"] = drip
        ticks = itertools.count(0, 6.0)
        with closing(Web(Guard(), AGENT, clock=lambda: next(ticks))) as web:
            assert fault_of(web, "http://public.example/x").reason == "too_slow"

    def test_no_proxy_is_obeyed(
        self, host: Host, direct: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        host.answers["/x"] = lambda request: request.reply(200, b"direct")
        assert ask(direct, f"http://{host.name}/x") == b"direct"

    @pytest.mark.parametrize("status", [407, 502])
    def test_a_tunnel_that_is_refused(
        self, host: Host, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setenv("https_proxy", f"http://{host.name}")
        host.answers["public.example:443"] = lambda request: request.reply(status)
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            fault = fault_of(web, "https://public.example/x")
        expected = {407: (Outcome.CONFIG, "http_407"), 502: (Outcome.TRANSIENT, "proxy")}
        assert (fault.outcome, fault.reason) == expected[status]
        assert host.asked[0][0] == "public.example:443"

    def test_one_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        with closing(Web(Guard(), AGENT, QUICK)) as web:
            assert fault_of(web, "http://public.example/x").reason == "proxy"


FILE = "1AbCdEfGhIjKlMnOp"
DRIVE = f"https://drive.google.com/file/d/{FILE}/view?usp=sharing"
FORM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Quota exceeded.zip (40G) is too large for Google to scan for viruses.</p>
<form id="other" action="https://evil.example/"><input type="hidden" name="no" value="1"></form>
<form id="download-form" action="{action}" method="get"><input type="submit" value="Go on">
<input type="hidden" name="id" value="{file}"><input type="hidden" name="confirm" value="t&amp;x">
</form><input type="hidden" name="outside" value="1"></body></html>"""
ACTION = "https://drive.usercontent.google.com/download"
PAGE = {"Content_Type": "text/html; charset=utf-8"}


class TestDrive:
    def confirm(self, host: Host, action: str = ACTION) -> None:
        page = FORM.format(action=action, file=FILE).encode()
        host.answers["/drive.google.com/uc"] = lambda request: request.reply(200, page, **PAGE)

    def fault(self, host: Host, web: Web, target: Path) -> Fault:
        return refused(web, target, DRIVE, kind="drive", sleep=lambda seconds: None)

    @pytest.mark.parametrize(
        ("url", "found"),
        [
            (DRIVE, FILE),
            (f"https://drive.google.com/uc?export=download&id={FILE}", FILE),
            (f"https://drive.google.com/open?id={FILE}", FILE),
            (f"https://drive.google.com/file/u/1/d/{FILE}", FILE),
            (f"https://drive.usercontent.google.com/download?id={FILE}&confirm=t", FILE),
            (f"https://drive.google.com/drive/folders/{FILE}", None),
            (f"https://evil.example/file/d/{FILE}/view", None),
            ("https://drive.google.com/uc?id=../../etc", None),
        ],
    )
    def test_the_id(self, url: str, found: str | None) -> None:
        assert drive_id(url) == found

    def test_bytes_at_once(self, host: Host, web: Web, target: Path) -> None:
        serve(host, url="https://drive.google.com/uc")
        assert fetch(web, target, DRIVE, kind="drive").source == DRIVE
        assert host.asked[0][0] == f"/drive.google.com/uc?export=download&id={FILE}"
        assert len(host.asked) == 1

    def test_through_the_page_and_on_after_a_kill(self, host: Host, web: Web, target: Path) -> None:
        self.confirm(host)
        serve(host, url=ACTION)
        with pytest.raises(Killed):
            fetch(web, target, DRIVE, kind="drive", tell=killed_after(100_000))
        got = fetch(web, target, DRIVE, kind="drive", sha256=SHA256)
        assert got.resumed_from >= 100_000
        asked = f"/drive.usercontent.google.com/download?id={FILE}&confirm=t%26x"
        assert [path for path, _ in host.asked][1::2] == [asked] * 2
        assert host.ranges == [None, None, None, f"bytes={got.resumed_from}-"]

    def test_small_files_are_gone_on_with_too(self, host: Host, web: Web, target: Path) -> None:
        serve(host, url="https://drive.google.com/uc")
        with pytest.raises(Killed):
            fetch(web, target, DRIVE, kind="drive", tell=killed_after(100_000))
        got = fetch(web, target, DRIVE, kind="drive", sha256=SHA256)
        assert got.resumed_from >= 100_000

    @pytest.mark.parametrize("second", [False, True])
    @pytest.mark.parametrize(
        ("status", "page", "outcome", "reason"),
        [
            (
                200,
                "<p>Sorry. Too many users have viewed or downloaded this file recently.</p>",
                Outcome.BLOCKED,
                "drive_quota",
            ),
            (200, "<title>Google Drive - Quota exceeded</title>", Outcome.BLOCKED, "drive_quota"),
            (200, "<h1>You need access</h1>", Outcome.CONFIG, "drive_private"),
            (401, "<h1>Hello</h1>", Outcome.CONFIG, "drive_private"),
            (404, "<title>Error 404 (Not Found)!!1</title>", Outcome.GONE, "drive_not_found"),
            (
                200,
                "Sorry, the file you have requested does not exist.",
                Outcome.GONE,
                "drive_not_found",
            ),
            (200, "<title>A new\n page</title>", Outcome.TRANSIENT, "drive_page"),
            (500, "<title>A new page</title>", Outcome.TRANSIENT, "drive_page"),
        ],
    )
    def test_pages_have_names(
        self,
        host: Host,
        web: Web,
        target: Path,
        second: bool,
        status: int,
        page: str,
        outcome: Outcome,
        reason: str,
    ) -> None:
        if second:
            self.confirm(host)
        path = f"/{ACTION.partition('//')[2]}" if second else "/drive.google.com/uc"
        host.answers[path] = lambda request: request.reply(status, page.encode(), **PAGE)
        fault = self.fault(host, web, target)
        assert (fault.outcome, fault.reason) == (outcome, reason)
        assert left(target) == set()
        if reason == "drive_quota":
            assert fault.pause == 86_400
            assert "24 hours" in fault.detail
            assert "ninerec import" in fault.detail
        if reason == "drive_page":
            assert "'A new page'" in fault.detail

    def test_a_redirect_to_the_sign_in_page(self, host: Host, web: Web, target: Path) -> None:
        there = "https://accounts.google.com/ServiceLogin"
        host.answers["/drive.google.com/uc"] = lambda request: request.reply(302, Location=there)
        host.answers["/accounts.google.com/ServiceLogin"] = lambda request: request.reply(
            200, b"<title>Anmelden</title>", **PAGE
        )
        fault = self.fault(host, web, target)
        assert (fault.outcome, fault.reason) == (Outcome.CONFIG, "drive_private")

    @pytest.mark.parametrize(
        "action", ["https://evil.example/download", "http://drive.google.com/download"]
    )
    def test_a_form_that_leads_elsewhere_is_not_sent(
        self, host: Host, web: Web, target: Path, action: str
    ) -> None:
        self.confirm(host, action)
        assert self.fault(host, web, target).reason == "drive_form"
        assert len(host.asked) == 1

    def test_an_address_that_is_no_file(self, host: Host, web: Web, target: Path) -> None:
        fault = refused(web, target, "https://drive.google.com/drive/my-drive", kind="drive")
        assert (fault.outcome, fault.reason) == (Outcome.CONFIG, "drive_address")
        assert not host.asked
