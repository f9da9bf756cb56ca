"""Resolvers: what each page of `tests/pages` says, which address is whose, and that no bytes make one raise.

The pages are written by hand after the sites' public fields. A live item is never said to be gone, and what is
not understood is neither a cover nor gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from downloader import resolvers
from downloader.answers import Ask, Cover, Fault, Outcome, Resolver, Response
from downloader.resolvers import bilibili, douyin, image, kuaishou, pages, qpic
from ninerec_data.errors import UsageError

PAGES = Path(__file__).parent / "pages"
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)

BV, PHOTO, VIDEO = "BV1xY4y1A7zE", "3xabcdefghij234", "6800000000000000123"
MAPPED = {
    "bilibili": f"https://m.bilibili.com/video/{BV}",
    "kuaishou": f"https://www.kuaishou.com/short-video/{PHOTO}",
    "douyin": f"https://www.douyin.com/discover?modal_id={VIDEO}",
    "qpic": "http://puui.qpic.cn/qqvideo_ori/0/a0000abc_496_280/0",
    "image": "https://pictures.example.org/covers/1.JPG",
}
ASKED = {
    "bilibili": f"https://www.bilibili.com/video/{BV}/",
    "kuaishou": MAPPED["kuaishou"],
    "douyin": f"https://www.douyin.com/video/{VIDEO}",
}
VIEW = f"https://api.bilibili.com/x/web-interface/view?bvid={BV}"
OWN: dict[str, Resolver] = {each.name: each for each in resolvers.OWN}
REFERER = {"Referer": "https://www.bilibili.com/"}
SIGNED = "https://{}.douyinpic.com/img/tos-cn-i/ab~c5_300x400.webp?x-expires=1700000000&x-signature=Q%2Fz1%2BaA%3D&from=12"
# page -> addresses and title
COVERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "bilibili_ok.html": (("https://i0.hdslb.com/bfs/archive/1f0c.jpg",), "Noodles by the river"),
    "bilibili_odd_title.html": (
        ("https://i2.hdslb.com/bfs/archive/odd.png",),
        "🍜 \"Soup\" & </script> &amp; 'salt'  🍜 window.__INITIAL_STATE__={} ?",
    ),
    "bilibili_metas.html": (
        ("https://i1.hdslb.com/bfs/archive/5a17.jpg",),
        'Salt &amp; "pepper" 🌶',
    ),
    "bilibili_itemprop.html": (("https://i1.hdslb.com/bfs/archive/17.webp",), "Plain title"),
    "bilibili_view_ok.json": (
        ("https://i0.hdslb.com/bfs/archive/1f0c.jpg",),
        "Noodles &lt;3 by the river",
    ),
    "kuaishou_ok.html": (
        (
            "https://p2.a.yximgs.com/upic/2021/05/cover.jpg?tag=1-1620-xpcwebdetail-0-ab&clientCacheKey=3xa.jpg&di=7f&bp=10",
        ),
        'A cat, "asleep" #cats 😺',
    ),
    "kuaishou_top_level.html": (
        (
            "https://p2.a.yximgs.com/upic/2021/05/cover.jpg?tag=1-1620-xpcwebdetail-0-ab&clientCacheKey=3xa.jpg&di=7f&bp=10",
        ),
        'A cat, "asleep" #cats 😺',
    ),
    "douyin_ok.html": (
        (SIGNED.format("p3-pc"), SIGNED.format("p9-pc")),
        'Dance 💃 100% </script> &amp; "on" #dance',
    ),
    "douyin_aweme.html": (
        ("https://p3-pc.douyinpic.com/img/origin.webp?x-expires=1&x-signature=a",),
        None,
    ),
    "douyin_answer.json": ((SIGNED.format("p3-pc"),), "Plain"),
}
# page -> outcome, reason, whether the host is blocked
FAULTS = {
    "bilibili_gone.html": ("GONE", "code_-404", False),
    "bilibili_hidden.html": ("GONE", "code_62002", False),
    "bilibili_risk.html": ("BLOCKED", "captcha", True),
    "bilibili_captcha.html": ("BLOCKED", "captcha", True),
    "bilibili_view_-404.json": ("GONE", "code_-404", False),
    "bilibili_view_62002.json": ("GONE", "code_62002", False),
    "bilibili_view_62004.json": ("GONE", "code_62004", False),
    "bilibili_view_62012.json": ("GONE", "code_62012", False),
    "bilibili_view_-400.json": ("REJECTED", "bad_id", False),
    "bilibili_view_-401.json": ("BLOCKED", "code_-401", True),
    "bilibili_view_-352.json": ("BLOCKED", "code_-352", True),
    "bilibili_view_-412.json": ("BLOCKED", "code_-412", True),
    "bilibili_view_-403.json": ("BLOCKED", "code_-403", False),
    "bilibili_view_-500.json": ("TRANSIENT", "code_-500", False),
    "bilibili_view_-799.json": ("TRANSIENT", "code_-799", False),
    "bilibili_view_voucher.json": ("BLOCKED", "captcha", True),
    "bilibili_view_check.html": ("BLOCKED", "captcha", True),
    "bilibili_view_empty.json": ("TRANSIENT", "unreadable_page", False),
    "bilibili_view_other.json": ("TRANSIENT", "unreadable_page", False),
    "kuaishou_gone.html": ("GONE", "null_photo", False),
    "kuaishou_null_record.html": ("GONE", "null_photo", False),
    "kuaishou_null_of_other.html": ("TRANSIENT", "unreadable_page", False),
    "kuaishou_null_and_check.html": ("BLOCKED", "captcha", False),
    "kuaishou_captcha.html": ("BLOCKED", "captcha", True),
    "kuaishou_login.html": ("BLOCKED", "captcha", True),
    "kuaishou_no_cover.html": ("TRANSIENT", "unreadable_page", False),
    "kuaishou_unreadable.html": ("TRANSIENT", "unreadable_page", False),
    "douyin_empty.html": ("GONE", "empty_answer", False),
    "douyin_empty_answer.json": ("GONE", "empty_answer", False),
    "douyin_other.html": ("TRANSIENT", "unreadable_page", False),
    "douyin_captcha.html": ("BLOCKED", "captcha", True),
    "douyin_challenge.html": ("BLOCKED", "captcha", True),
    "douyin_unreadable.html": ("TRANSIENT", "unreadable_page", False),
}
# Bilibili's pages that say nothing of this video.
ASK_VIEW = [
    "bilibili_relative.html",
    "bilibili_other_video.html",
    "bilibili_site_picture.html",
    "bilibili_other_metas.html",
]


def came(name: str, body: bytes, *, url: str = "", status: int = 200) -> Cover | Ask | Fault:
    """What a platform's resolver makes of a body, from its usual page unless told."""
    response = Response(url or ASKED[name], status, {"content-type": "text/html"}, body)
    return OWN[name].read(MAPPED[name], response)


def page(file: str) -> Cover | Ask | Fault:
    """What a stored page gives."""
    body = (PAGES / file).read_bytes()
    return came(file.partition("_")[0], body, url=VIEW if "_view_" in file else "")


def test_every_page_is_used() -> None:
    assert {path.name for path in PAGES.iterdir()} == {*COVERS, *FAULTS, *ASK_VIEW}


@pytest.mark.parametrize("file", COVERS)
def test_page_gives_its_cover(file: str) -> None:
    headers = REFERER if file.startswith("bilibili") else {}
    assert page(file) == Cover(*COVERS[file], headers)


@pytest.mark.parametrize("file", FAULTS)
def test_page_gives_its_fault(file: str) -> None:
    fault = page(file)
    assert isinstance(fault, Fault)
    assert (fault.outcome.value, fault.reason, fault.blocks) == FAULTS[file]


@pytest.mark.parametrize("file", ASK_VIEW)
def test_page_that_says_nothing_asks_for_the_view_answer(file: str) -> None:
    assert page(file) == Ask(VIEW, REFERER)


def test_view_answer_never_asks_again() -> None:
    codes = [f'{{"code":{code}}}'.encode() for code in ('"0"', "[]", "1e400", "9" * 50, "9" * 5000)]
    for body in (b"", b"[]", b"{}", b'{"code":0,"data":[]}', *codes):
        fault = came("bilibili", body, url=VIEW)
        assert isinstance(fault, Fault)
        assert (fault.outcome, fault.reason) == (Outcome.TRANSIENT, "unreadable_page")


def test_other_part_of_the_site_asks_for_the_view_answer() -> None:
    assert came("bilibili", b"<html>", url="https://www.bilibili.com/bangumi/play/ep1") == Ask(
        VIEW, REFERER
    )


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("bilibili", "https://www.bilibili.com/"),
        ("bilibili", "https://passport.bilibili.com/login?gourl=x"),
        ("bilibili", f"https://evilbilibili.com/video/{BV}/"),
        ("bilibili", f"http://10.0.0.1/portal?to=bilibili.com/video/{BV}"),
        ("bilibili", "https://[broken"),
        ("kuaishou", "https://www.kuaishou.com"),
        ("kuaishou", "https://www.kuaishou.com/new-reco"),
        ("kuaishou", f"https://id.kuaishou.com/login/{PHOTO}"),
        ("kuaishou", f"https://kuaishou.com.evil.org/short-video/{PHOTO}"),
        ("douyin", "https://www.douyin.com/"),
        ("douyin", f"https://www.douyin.com/passport/web/login?next=/video/{VIDEO}"),
        ("douyin", f"https://sso.douyin.com/video/{VIDEO}"),
        ("douyin", "https://www.douyin.com/recommend"),
    ],
)
def test_redirect_to_login_or_home_is_blocked_even_with_a_good_page(name: str, url: str) -> None:
    fault = came(name, (PAGES / f"{name}_ok.html").read_bytes(), url=url)
    assert isinstance(fault, Fault)
    assert (fault.outcome, fault.reason, fault.blocks) == (Outcome.BLOCKED, "login", False)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    ("status", "outcome", "blocks"),
    [
        (404, Outcome.GONE, False),
        (410, Outcome.GONE, False),
        (412, Outcome.BLOCKED, True),
        (302, Outcome.TRANSIENT, False),
        (500, Outcome.TRANSIENT, False),
    ],
)
def test_status_of_a_page(name: str, status: int, outcome: Outcome, blocks: bool) -> None:
    fault = came(name, (PAGES / f"{name}_ok.html").read_bytes(), status=status)
    assert isinstance(fault, Fault)
    assert (fault.outcome, fault.reason, fault.blocks) == (outcome, f"http_{status}", blocks)


def test_login_does_not_show_what_it_was_signed_with() -> None:
    fault = came("douyin", b"", url="https://sso.douyin.com/login?token=verysecret")
    assert "verysecret" not in str(fault)


@pytest.mark.parametrize(
    ("url", "name", "first"),
    [
        (MAPPED["bilibili"], "bilibili", Ask(ASKED["bilibili"])),
        (f"https://www.bilibili.com/video/{BV}/?p=2&spm=1", "bilibili", Ask(ASKED["bilibili"])),
        (f"http://BILIBILI.com/video/{BV}", "bilibili", Ask(ASKED["bilibili"])),
        (
            "https://m.bilibili.com/video/BV1xy4y1a7ze",
            "bilibili",
            Ask("https://www.bilibili.com/video/BV1xy4y1a7ze/"),
        ),
        (MAPPED["kuaishou"], "kuaishou", Ask(ASKED["kuaishou"])),
        (MAPPED["kuaishou"] + "/?fid=1", "kuaishou", Ask(ASKED["kuaishou"])),
        (MAPPED["douyin"], "douyin", Ask(ASKED["douyin"])),
        (ASKED["douyin"], "douyin", Ask(ASKED["douyin"])),
        (
            f"https://www.douyin.com/user/x?a=1&modal_id={VIDEO}&b=2",
            "douyin",
            Ask(ASKED["douyin"]),
        ),
        (MAPPED["qpic"], "qpic", Cover(("https" + MAPPED["qpic"][4:], MAPPED["qpic"]))),
        ("https://puui.qpic.cn/a/0", "qpic", Cover(("https://puui.qpic.cn/a/0",))),
        (MAPPED["image"], "image", Cover((MAPPED["image"],))),
        (
            "https://i0.hdslb.com/bfs/archive/x",
            "image",
            Cover(("https://i0.hdslb.com/bfs/archive/x",)),
        ),
        (
            "https://p3-pc.byteimg.com/x~a.image",
            "image",
            Cover(("https://p3-pc.byteimg.com/x~a.image",)),
        ),
        ("https://x.org/a.avif?w=1", "image", Cover(("https://x.org/a.avif?w=1",))),
        ("http://[2001:db8::1]/a.png", "image", Cover(("http://[2001:db8::1]/a.png",))),
    ],
)
def test_address_is_taken_by_its_platform(url: str, name: str, first: Ask | Cover) -> None:
    resolver, asked = resolvers.find(url)
    assert (resolver.name, asked) == (name, first)


UNKNOWN = [
    f"https://evilbilibili.com/video/{BV}",
    f"https://bilibili.com.evil.org/video/{BV}",
    f"https://evil.org/bilibili.com/video/{BV}",
    f"https://www.bilibili.com@evil.org/video/{BV}",
    f"https://evil.org\\.bilibili.com/video/{BV}",
    "https://www.bilibili.com/read/cv1",
    "https://www.bilibili.com/video/av170001",
    f"https://www.bilibili.com/video/{BV}/../../x",
    "https://www.kuaishou.com/profile/3x",
    "https://kuaishou.com.evil.org/short-video/3x",
    "https://www.douyin.com/discover?modal_id=12x",
    "https://www.douyin.com/discover?xmodal_id=12",
    "https://www.douyin.com/video/١٢",
    "http://evilqpic.cn/0",
    "http://qpic.cn.evil.org/0",
    "https://evilhdslb.com/x",
    "https://youtube.com/watch?v=1",
    "https://x.org/a.jpg.html",
    "https://x.org/page?file=a.jpg",
]


@pytest.mark.parametrize("url", UNKNOWN)
def test_unknown_address_is_a_fault(url: str) -> None:
    with pytest.raises(Fault) as caught:
        resolvers.find(url)
    assert (caught.value.outcome, caught.value.reason) == (Outcome.CONFIG, "unknown_platform")
    assert "bilibili, kuaishou, douyin, qpic, image" in caught.value.detail


def test_smaller_variant_is_bilibilis_alone() -> None:
    plain = "https://i0.hdslb.com/bfs/archive/1f0c.jpg"
    assert bilibili.small(plain, 224) == f"{plain}@399w_224h"
    assert image.small("https://x.biliimg.com/bfs/a.png?v=1", 9) == (
        "https://x.biliimg.com/bfs/a.png@16w_9h?v=1"
    )
    for other in (
        f"{plain}@100w.jpg",
        "https://evilhdslb.com/bfs/a.jpg",
        "https://hdslb.com/a.jpg",
    ):
        assert bilibili.small(other, 224) is None
    for resolver in (kuaishou, douyin, qpic):
        assert resolver.small(plain, 224) is None


@pytest.mark.parametrize("resolver", [qpic, image])
def test_platform_without_pages_reads_none(resolver: Resolver) -> None:
    fault = resolver.read(
        MAPPED[resolver.name], Response(MAPPED[resolver.name], 200, {}, b"<html>")
    )
    assert isinstance(fault, Fault)
    assert fault.outcome is Outcome.TRANSIENT


@pytest.mark.parametrize(
    ("given_", "title"),
    [
        ("\ufeff", "\ufeff"),
        (" \u3000 \x00\n", None),
        ("a\u2028b\x85c\x7fd", "a b c d"),
        ("x" * 3000, "x" * 2000),
        ("x" * 1999 + "  y", "x" * 1999),
        ("\udc00", "?"),
        (7, None),
    ],
)
def test_title(given_: Any, title: str | None) -> None:
    assert pages.titled(given_) == title


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("//h.org/a.jpg", "https://h.org/a.jpg"),
        ("HTTP://h.org/a?x-signature=a+b/c~=&amp;x=1#f", "https://h.org/a?x-signature=a+b/c~=&x=1"),
        ("data:image/png;base64,AA", None),
        ("/a.jpg", None),
        ("http://[", None),
        ("\ud800//", None),
        ("https://h.org/" + "a" * 5000, None),
        (None, None),
    ],
)
def test_address_of_a_picture(address: Any, url: str | None) -> None:
    assert pages.picture(address) == url


def test_state_is_the_first_object_after_its_marker() -> None:
    text = 'x=window.S; window.S={}; window.S = [1]; window.S\n=\t{\'a\':1} window.S={"a":2}; window.S={"a":3}'
    assert pages.state_after(text, "window.S") == {"a": 2}
    assert pages.state_after(f"window.S=0 {text}", "window.S") == {}  # a fifth place is not tried
    assert pages.state_after(text, "window.T") == {}


def test_page_is_read_up_to_its_bound() -> None:
    body = (PAGES / "bilibili_ok.html").read_bytes()
    assert isinstance(came("bilibili", b" " * 1000 + body), Cover)
    assert came("bilibili", b" " * pages.MAX_PAGE + body) == Ask(VIEW, REFERER)


# Pieces that lead far into the resolvers; what stands between them is anything.
PIECES = [
    b"window.__INITIAL_STATE__=",
    b"window.__APOLLO_STATE__=",
    b'<script id="RENDER_DATA">',
    b'{"videoData":',
    b'{"pic":"//',
    b'{"error":{"trueCode":',
    b'{"code":',
    b'"data":',
    b'{"aweme_detail":',
    b'{"video":{"cover":',
    b'{"defaultClient":',
    f'{{"VisionVideoDetailPhoto:{PHOTO}":'.encode(),
    b'{"coverUrl":"',
    b"%7B",
    b'<meta property="og:image" content="',
    b"<![x[",
    b"<!",
    b"&#",
    b"</script>",
    b"[" * 3000,
    b"9" * 5000,
    b"\\ud800",
    b"}",
    b"]",
    b'"',
    b">",
    b":",
    b",",
]
hostile = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=12)


@FUZZ
@given(body=st.one_of(st.binary(max_size=200), hostile.map(b"".join)))
@example(body=b"<![x[")
@example(body=b"window.__INITIAL_STATE__={" + b'"a":[' * 9000)
@example(body=b"\xff\xfe\x00")
def test_no_bytes_raise_or_give_a_cover_or_gone(body: bytes) -> None:
    for name in ASKED:
        for url in (ASKED[name], VIEW):
            answer = came(name, body, url=url)
            assert isinstance(answer, Ask | Fault)
            assert isinstance(answer, Ask) or answer.outcome is not Outcome.GONE


KEYS = ["error", "trueCode", "videoData", "pic", "title", "bvid", "code", "data", "v_voucher"]
KEYS += ["aweme", "detail", "aweme_detail", "video", "cover", "url_list", "desc", "awemeId"]
KEYS += ["defaultClient", f"VisionVideoDetailPhoto:{PHOTO}", "coverUrl", "caption", "photo"]
KEYS += [f'visionVideoDetail("{PHOTO}"']
VALUES = st.one_of(
    st.sampled_from([None, True, 0, -404, -404.0, 1e300, 10**300, "", "//x.org/a", BV, VIDEO]),
    st.text(max_size=4),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@FUZZ
@given(value=TREES)
@example(value={"aweme": "detail"})
@example(value={"code": 0, "data": {"v_voucher": {"a": 1}}})
@example(value={"videoData": {"pic": "//x.org/a"}})
@example(value={"videoData": {"pic": ["//x.org/a"], "title": {}}, "error": [], "code": []})
def test_values_of_any_kind_under_the_known_keys_never_raise(value: Any) -> None:
    text = json.dumps(value)
    bodies = {
        "bilibili": f"window.__INITIAL_STATE__={text}",
        "kuaishou": f"window.__APOLLO_STATE__={text}",
        "douyin": f'<script id="RENDER_DATA">{quote(text)}</script>',
    }
    for name, body in bodies.items():
        assert isinstance(came(name, body.encode()), Cover | Ask | Fault)
    assert isinstance(came("bilibili", text.encode(), url=VIEW), Cover | Fault)


@FUZZ
@given(
    file=st.sampled_from(sorted(COVERS)),
    at=st.integers(0, 2000),
    token=st.sampled_from([b"", b'"', b"}", b"{", b"\xff", b"\\", b"%", b"null", b"<", b"0"]),
    taken=st.integers(0, 40),
)
def test_damaged_page_of_a_live_item_is_never_gone(
    file: str, at: int, token: bytes, taken: int
) -> None:
    body = (PAGES / file).read_bytes()
    at %= len(body)
    name, url = file.partition("_")[0], VIEW if "_view_" in file else ""
    for damaged in (body[:at], body[:at] + token + body[at + taken :]):
        answer = came(name, damaged, url=url)
        assert not isinstance(answer, Fault) or answer.outcome is not Outcome.GONE


@FUZZ
@given(url=st.text(max_size=40), host=st.sampled_from(["", *MAPPED.values()]))
@example(url="http://[", host="")
@example(url="//\udc80.bilibili.com/video/BV1", host="")
def test_no_address_raises(url: str, host: str) -> None:
    for resolver in OWN.values():
        address = host + url
        first = resolver.start(address)
        assert first is None or isinstance(first, Ask | Cover)
        assert isinstance(resolver.read(address, Response(address, 200, {}, b"{}")), Ask | Fault)
        resolver.small(address, 224)


def test_every_form_of_the_real_mapping_is_taken(shared_data: Path) -> None:
    file = shared_data / "ninerec" / "ninerec_item_urls.csv"
    if not file.is_file():
        pytest.skip("the real mapping is not here")
    rows = [line.split(",", 2) for line in file.read_text("utf-8").splitlines()]
    found = {}
    for dataset, _, url in rows[::7]:
        found.setdefault(dataset.partition("_")[0], set()).add(resolvers.find(url)[0].name)
    assert found == {
        "Bili": {"bilibili"},
        "KU": {"kuaishou"},
        "DY": {"douyin"},
        "QB": {"qpic"},
        "TN": {"qpic"},
    }


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install packages that bring resolvers: name of the entry point -> what loading it gives, or raises."""

    def packages(**brought: object) -> list[str]:
        loads: list[str] = []

        def point(name: str, thing: object) -> SimpleNamespace:
            def load() -> object:
                loads.append(name)
                if isinstance(thing, Exception):
                    raise thing
                return thing

            dist = SimpleNamespace(name=f"covers-of-{name}")
            return SimpleNamespace(name=name, value=f"{name}:it", module=name, dist=dist, load=load)

        def entry_points(*, group: str) -> list[SimpleNamespace]:
            assert group == "ninerec.resolvers"
            return [point(*each) for each in brought.items()]

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        resolvers._installed.cache_clear()
        return loads

    yield packages
    resolvers._installed.cache_clear()


class Tube:
    """A resolver of another package, for one site and all of bilibili."""

    def __init__(self, name: str = "tube") -> None:
        self.name = name

    def start(self, url: str) -> Ask | None:
        return Ask(f"{url}#{self.name}") if "tube" in url or "bilibili" in url else None

    def read(self, url: str, response: Response) -> Fault:
        return Fault(Outcome.TRANSIENT, "unreadable_page")

    def small(self, url: str, size: int) -> None:
        return None


def test_installed_resolvers_come_first_and_are_loaded_once(install: Any) -> None:
    second, first = Tube("b"), Tube("a")
    loads = install(zz=second, aa=first)
    for url in ("https://tube.example/1", MAPPED["bilibili"]):
        assert resolvers.find(url) == (first, Ask(f"{url}#a"))
    assert resolvers.find(MAPPED["qpic"])[0] is qpic
    assert resolvers.names() == ("a", "b", "bilibili", "kuaishou", "douyin", "qpic", "image")
    assert loads == ["aa", "zz"]


@pytest.mark.parametrize(
    ("brought", "said"),
    [
        (ImportError("no module named tubes"), "tube:it gave ImportError: no module named tubes"),
        (object(), "tube:it has no name, no start, no read, no small"),
        (SimpleNamespace(name="t", start=1, read=1), "tube:it has no small"),
    ],
)
def test_broken_resolver_is_one_error_that_names_it(
    install: Any, brought: object, said: str
) -> None:
    install(tube=brought)
    with pytest.raises(UsageError) as caught:
        resolvers.find(MAPPED["bilibili"])
    for part in ("'tube'", "'covers-of-tube'", said, "pip uninstall covers-of-tube"):
        assert part in str(caught.value)
