"""robots.txt and X-Robots-Tag: what a host asks of us is done, what it asks of others is not ours."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downloader.answers import Fault, Outcome, Response
from downloader.robots import MOST_BYTES, Robots, opted_out

PAGE = "https://a.example/video/1?p=2"
ALLOWED = None


class Host:
    """Answers robots.txt, and counts who asked."""

    def __init__(self, body: str | bytes = b"", status: int = 200, **headers: str) -> None:
        self.body = body.encode() if isinstance(body, str) else body
        self.status, self.asked = status, list[str]()
        self.headers = {"content-type": "text/plain"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        self.fault: Fault | None = None
        self.held = asyncio.Event()
        self.held.set()

    async def get(self, url: str) -> Response:
        self.asked.append(url)
        await self.held.wait()
        if self.fault:
            raise self.fault
        return Response(url, self.status, self.headers, self.body)


def verdict(
    host: Host, url: str = PAGE, robots: Robots | None = None
) -> tuple[Outcome, str] | None:
    try:
        asyncio.run((robots or Robots()).allowed(url, host.get))
    except Fault as fault:
        return fault.outcome, fault.reason
    return ALLOWED


BARRED = (Outcome.OPTED_OUT, "robots")
UNREACHABLE = (Outcome.TRANSIENT, "robots_unreachable")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", ALLOWED),
        ("User-agent: *\nDisallow: /", BARRED),
        ("User-agent: *\nDisallow:", ALLOWED),
        ("User-agent: *\nDisallow: /video", BARRED),
        ("User-agent: *\nDisallow: /videos", ALLOWED),
        ("User-agent: *\nDisallow: /\nAllow: /video/", ALLOWED),
        ("User-agent: *\nDisallow: /*?p=", BARRED),
        ("User-agent: *\nDisallow: /video/1$", ALLOWED),
        ("User-agent: other\nDisallow: /", ALLOWED),
        ("User-agent: nine\nDisallow: /", ALLOWED),
        ("User-agent: ninerecbot\nDisallow: /", ALLOWED),
        ("User-agent: NineRec\nDisallow: /", BARRED),
        ("user-agent : ninerec/2.0 # us\r\ndisallow: /\r\n", BARRED),
        ("User-agent: other\nUser-agent: ninerec\nDisallow: /", BARRED),
        ("User-agent: *\nDisallow: /\n\nUser-agent: ninerec\nDisallow: /private", ALLOWED),
        ("User-agent: *\nDisallow: /\nUser-agent: other\nAllow: /", BARRED),
        (b"\xef\xbb\xbfUser-agent: *\nDisallow: /", BARRED),
        (b"User-agent: *\nDisallow: /\xff\nDisallow: /video", BARRED),
        ("\n<pre>\nUser-agent: *\nDisallow: /", ALLOWED),
    ],
)
def test_rules(body: str | bytes, says: tuple[Outcome, str] | None) -> None:
    assert verdict(Host(body)) == says


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (204, ALLOWED),
        (304, ALLOWED),
        (401, ALLOWED),
        (403, ALLOWED),
        (404, ALLOWED),
        (410, ALLOWED),
        (429, UNREACHABLE),
        (500, UNREACHABLE),
        (503, UNREACHABLE),
    ],
)
def test_status_decides_where_there_are_no_rules(
    status: int, says: tuple[Outcome, str] | None
) -> None:
    body = "" if status == 204 else "User-agent: *\nDisallow: /"
    assert verdict(Host(body, status)) == says


def test_a_page_instead_of_rules_bars_nothing() -> None:
    host = Host("User-agent: *\nDisallow: /", content_type="text/html; charset=utf-8")
    assert verdict(host) is ALLOWED


@pytest.mark.parametrize(
    ("fault", "says", "remembered"),
    [
        (Fault(Outcome.TRANSIENT, "connect_timeout"), UNREACHABLE, True),
        (Fault(Outcome.REJECTED, "redirect_loop"), ALLOWED, True),
        (Fault(Outcome.GONE, "http_410"), ALLOWED, True),
        (
            Fault(Outcome.BLOCKED, "host_blocked", blocks=True),
            (Outcome.BLOCKED, "host_blocked"),
            False,
        ),
        (Fault(Outcome.CONFIG, "certificate"), (Outcome.CONFIG, "certificate"), True),
    ],
)
def test_faults_on_the_way(
    fault: Fault, says: tuple[Outcome, str] | None, remembered: bool
) -> None:
    host, robots = Host("User-agent: *\nDisallow: /"), Robots()
    host.fault = fault
    assert verdict(host, robots=robots) == says
    host.fault = None
    assert verdict(host, robots=robots) == (says if remembered else BARRED)
    assert len(host.asked) == (1 if remembered else 2)


def test_an_origin_whose_rules_cannot_be_had_is_not_asked() -> None:
    with pytest.raises(Fault, match="503") as caught:
        asyncio.run(Robots().allowed(PAGE, Host("", 503).get))
    assert not caught.value.asked


def test_asked_once_by_origin_without_user_or_query() -> None:
    host, robots = Host("User-agent: *\nDisallow: /private"), Robots()
    for url in (PAGE, "https://a.example/x", "https://me:secret@A.example:443/y?token=1"):
        assert verdict(host, url, robots) is ALLOWED
    assert host.asked == ["https://a.example/robots.txt"]
    for url in ("http://a.example/", "https://a.example:8443/", "https://b.example/"):
        assert verdict(host, url, robots) is ALLOWED
    assert host.asked[1:] == [
        "http://a.example/robots.txt",
        "https://a.example:8443/robots.txt",
        "https://b.example/robots.txt",
    ]


def test_who_asks_at_once_shares_one_request_also_when_the_first_gives_up() -> None:
    async def scene() -> None:
        host, robots = Host("User-agent: *\nDisallow: /video"), Robots()
        host.held.clear()
        tasks = [asyncio.create_task(robots.allowed(PAGE, host.get)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(host.asked) == 1
        tasks[0].cancel()
        host.held.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert {str(result) for result in results[1:]} == {
            f"OPTED_OUT robots: https://a.example/robots.txt bars {PAGE}"
        }
        assert len(host.asked) == 2  # the one that was given up, and one for all the rest

    asyncio.run(scene())


def test_another_origin_does_not_wait() -> None:
    async def scene() -> None:
        slow, quick, robots = Host(), Host(), Robots()
        slow.held.clear()
        waiting = asyncio.create_task(robots.allowed(PAGE, slow.get))
        await asyncio.sleep(0)
        await robots.allowed("https://b.example/", quick.get)
        assert not waiting.done()
        slow.held.set()
        await waiting

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: *\nCrawl-delay: 86400", 30),
        ("User-agent: *\nCrawl-delay: inf", 0),
        ("User-agent: *\nCrawl-delay: -1", 0),
        ("User-agent: other\nCrawl-delay: 9", 0),
        ("User-agent: *\nCrawl-delay: 9\nUser-agent: ninerec\nCrawl-delay: 1", 1),
        ("", 0),
    ],
)
def test_delay(body: str, seconds: float) -> None:
    robots = Robots()
    assert robots.delay("a.example") == 0
    assert verdict(Host(body), robots=robots) is ALLOWED
    assert robots.delay("a.example") == seconds
    assert verdict(Host(), "http://a.example/", robots) is ALLOWED
    assert robots.delay("a.example") == seconds  # the slower of both schemes
    assert robots.delay("b.example") == 0


def test_only_500_kib_are_read_and_no_half_line() -> None:
    def filled(rule: str, last: str) -> str:
        text = f"User-agent: *\n{rule}\n"
        return text + "#" * (MOST_BYTES - len(text) - 13) + "\n" + last

    assert verdict(Host(filled("", "Disallow: /video/1"))) is ALLOWED  # cut to "Disallow: /v"
    assert verdict(Host(filled("Disallow: /video", "Disallow: /other"))) == BARRED
    rules = b"\nUser-agent: *\nDisallow: /\n"
    assert verdict(Host(b"#" * (MOST_BYTES - len(rules)) + rules)) == BARRED
    assert verdict(Host(b"#" * MOST_BYTES + rules)) is ALLOWED


def test_hostile_file_takes_neither_time_nor_memory() -> None:
    agents = "".join(f"User-agent: a{n}\u2028useragent b{n}\n" for n in range(8_000))
    rules = "".join(f"Allow: /{n}\n" for n in range(12_000))
    begun = time.process_time()
    assert verdict(Host(agents + rules)) is ALLOWED
    assert time.process_time() - begun < 2


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_any_bytes_are_read(body: bytes) -> None:
    assert verdict(Host(b"User-agent: *\n" + body)) in (ALLOWED, BARRED)
    assert verdict(Host(body)) is ALLOWED or b"ser" in body.lower()


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("noai", "noai"),
        ("NoImageAI", "noimageai"),
        ("index, noindex", "noindex"),
        ("noimageindex", "noimageindex"),
        ("none", "none"),
        ("all", None),
        ("nofollow, noarchive, nosnippet", None),
        ("noindexing", None),
        ("", None),
        ("googlebot: noindex", None),
        ("googlebot: nofollow, noindex", None),
        ("ninerec: noindex", "noindex"),
        ("googlebot: noindex, ninerec: noai", "noai"),
        ("*: noindex", "noindex"),
        ("ninerec: all, googlebot: noindex", None),
        ("unavailable_after: Mon, 03 Aug 2026 15:52:01 GMT, noindex", "noindex"),
        ("unavailable_after: Monday, 03-Aug-26 15:52:01 GMT, noai", "noai"),
        ("max-snippet: 0, max-image-preview: none", None),
        ("max-image-preview: large, noindex", "noindex"),
        ("nofollow; noai", "noai"),
    ],
)
def test_x_robots_tag(value: str, word: str | None) -> None:
    assert opted_out({"x-robots-tag": value}) == word


def test_no_x_robots_tag_asks_nothing() -> None:
    assert opted_out({"content-type": "noindex"}) is None
