"""Backups of covers: each kind gives the right bytes, says where from, and never another dataset's."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import random
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from test_lmdb_store import RGB, record, write_lmdb

from downloader.addresses import Guard
from downloader.answers import Fault, Outcome
from downloader.backup import Backup, open_backup
from downloader.remote_zip import RemoteZip
from downloader.web import Web
from ninerec_data.errors import CheckFailed, MissingData, UsageError
from ninerec_data.shards import Sample, write_shard

IDS = [f"v{n}" for n in range(1, 101)]
SOME = IDS[:3]
PATTERNS = ("Bili_Food_cover", "Bili_Food_cover.zip", "Bili_Food_cover.tar")
BAD_IDS = ["../../etc/passwd", "a/b", "/etc/passwd", "..", ".", "v\0", "100%", "a+b c", ""]


def picture(name: str, size: int = 3000) -> bytes:
    """Bytes of one name only, that do not pack."""
    return random.Random(name).randbytes(size)


def folder_of(path: Path, names: list[str]) -> Path:
    for name in names:
        file = path / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(name.rpartition("/")[2]))
    return path


def zip_of(path: Path, names: list[str], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(f"{name}.jpg", picture(name.rpartition("/")[2]))
    return path


def tar_of(path: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = 3000
            archive.addfile(info, io.BytesIO(picture(name.rpartition("/")[2])))
    return path


def shard_of(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_shard(file, [Sample({"item_id": name}, "a text", picture(name)) for name in names])
    return path


def opened(
    spec: Path | str, ids: list[str] = IDS, *, only: bool = True, web: Web | None = None
) -> Backup:
    return open_backup(
        str(spec), dataset="bili_food", patterns=PATTERNS, item_ids=ids, only=only, web=web
    )


# ---------------------------------------------------------------- kinds


def check(backup: Backup, path: str, inside: dict[str, str]) -> None:
    """It gives these items, each from its place, and no other."""
    for item, where in inside.items():
        assert backup.read(item) == (picture(item), f"{path}{where}")
        name = backup.lookup(item)
        assert name
        assert where.endswith(name.rpartition(".tar/")[2])
    assert backup.lookup("v99") is None
    with pytest.raises(LookupError):
        backup.read("v99")
    assert [item for item, _, _ in backup.read_all(["v99", *inside])] == list(inside)
    backup.close()


def test_folder_of_pictures(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "b", ["v1", "deep/er/v2", "v3"])
    inside = {"v1": "/v1.jpg", "v2": "/deep/er/v2.jpg", "v3": "/v3.jpg"}
    check(opened(folder), str(folder), inside)
    check(opened(f"{folder}/"), str(folder), inside)


def test_folder_of_shards_several_together_and_empty_ones(tmp_path: Path) -> None:
    shard_of(tmp_path / "covers/00000.tar", ["v1", "v2"])
    shard_of(tmp_path / "covers/00001.tar", ["v3"])
    shard_of(tmp_path / "covers/00002.tar", [])
    inside = {"v1": "00000.tar!v1.jpg", "v2": "00000.tar!v2.jpg", "v3": "00001.tar!v3.jpg"}
    check(opened(tmp_path / "covers"), f"{tmp_path}/covers/", inside)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path: Path, method: int) -> None:
    path = zip_of(tmp_path / "b.zip", ["v1", "x/v2"], method)
    check(opened(path), f"{path}!", {"v1": "v1.jpg", "v2": "x/v2.jpg"})


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_plain_and_compressed(tmp_path: Path, mode: str) -> None:
    path = tar_of(tmp_path / "b.any", ["v1", "x/v2"], mode)
    check(opened(path), f"{path}!", {"v1": "v1.jpg", "v2": "x/v2.jpg"})


def test_lmdb_of_files_and_of_raw_pixels(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "b.lmdb", {b"v1": picture("v1"), b"v2": record()})
    backup = opened(path)
    assert backup.read("v1") == (picture("v1"), f"{path}!v1")
    with Image.open(io.BytesIO(backup.read("v2")[0])) as image:
        assert image.format == "PNG"
        assert image.tobytes() == RGB
    backup.close()


def test_compressed_tar_is_unpacked_once_whatever_is_read(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "b.tgz", IDS, "w:gz")
    backup = opened(path)
    path.unlink()  # nothing is read from it again
    assert {item: data for item, data, _ in backup.read_all(IDS)} == {i: picture(i) for i in IDS}
    backup.close()


def test_any_thread_may_read(tmp_path: Path, server: Server, web: Web) -> None:
    some = IDS[:24]
    shard_of(tmp_path / "f/0.tar", some[:12])
    folder_of(tmp_path / "f", some[12:])
    zip_of(server.folder / "b.zip", IDS, zipfile.ZIP_DEFLATED)
    for spec in (tmp_path / "f", tar_of(tmp_path / "b.tgz", IDS, "w:gz"), server.url("b.zip")):
        backup = opened(spec, web=web)
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda item, backup=backup: backup.read(item)[0], some))
        assert read == [picture(item) for item in some]
        backup.close()


# ---------------------------------------------------------------- which dataset


def both(path: Path, make: Callable[[Path, list[str]], Path]) -> Path:
    """A backup of two datasets whose item ids are the same, here with other bytes."""
    return make(path, ["Bili_Dance_cover/v1", "Bili_Dance_cover/v2", "x/bili_food_COVER/y/v1"])


@pytest.mark.parametrize("only", [True, False])
@pytest.mark.parametrize("make", [folder_of, zip_of, tar_of])
def test_only_the_folder_of_the_dataset_counts(tmp_path: Path, make: object, only: bool) -> None:
    backup = opened(both(tmp_path / "b", make), only=only)  # type: ignore[arg-type]
    assert backup.lookup("v1") == "x/bili_food_COVER/y/v1.jpg"
    assert backup.lookup("v2") is None
    backup.close()


def test_shards_of_two_datasets(tmp_path: Path) -> None:
    shard_of(tmp_path / "bili_food/covers/00000.tar", ["v1"])
    shard_of(tmp_path / "bili_dance/covers/00000.tar", ["v1", "v2"]).write_bytes(b"not even read")
    backup = opened(tmp_path, only=False)
    assert backup.read("v1")[1] == f"{tmp_path}/bili_food/covers/00000.tar!v1.jpg"
    assert backup.lookup("v2") is None
    backup.close()


def test_tars_named_after_datasets(tmp_path: Path) -> None:
    tar_of(tmp_path / "Bili_Food_cover.tar", ["v1"])
    tar_of(tmp_path / "Bili_Dance_cover.tar", ["v1", "v2"])
    backup = opened(tmp_path, only=False)
    assert (backup.lookup("v1"), backup.lookup("v2")) == ("Bili_Food_cover.tar/v1.jpg", None)
    backup.close()


def test_several_datasets_need_a_folder_each(tmp_path: Path) -> None:
    for spec in (folder_of(tmp_path / "b", SOME), zip_of(tmp_path / "b.zip", SOME)):
        with pytest.raises(UsageError, match=r"--backup .*folder 'bili_food' or 'Bili_Food_cover'"):
            opened(spec, only=False)


def test_backup_of_other_items_says_what_it_found(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "b", ["bili_food/x1", "bili_food/x2", "bili_food/x3", "v1"])
    with pytest.raises(CheckFailed, match="another dataset") as caught:
        opened(folder)
    for word in ("--backup", "bili_food/x1.jpg", "bili_food/x3.jpg", "'v1', 'v2', 'v3'"):
        assert word in str(caught.value)
    assert "ninerec import" not in str(caught.value)


@pytest.mark.parametrize("name", ["Bili_Dance_cover", "bili_dance", "Bili_Dance_cover.zip"])
def test_backup_whose_name_is_of_another_dataset_is_not_read_as_ours(
    tmp_path: Path, name: str
) -> None:
    (zip_of if name.endswith("zip") else folder_of)(tmp_path / name, SOME)
    with pytest.raises(CheckFailed, match="'bili_dance"):
        opened(tmp_path / name)
    inner = folder_of(tmp_path / "b", ["Bili_Dance_cover/v1"])
    with pytest.raises(CheckFailed, match="'bili_dance_cover'"):
        opened(inner)


def test_folders_of_no_dataset_are_fine(tmp_path: Path) -> None:
    backup = opened(folder_of(tmp_path / "b", ["images/v1", "tn/v2"]))
    assert backup.lookup("v2") == "tn/v2.jpg"
    backup.close()


# ---------------------------------------------------------------- what cannot be had


def test_what_is_not_there_or_no_archive(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"--backup .*gone: No such file"):
        opened(tmp_path / "gone")
    page = tmp_path / "b.zip"
    page.write_text("<!doctype html><title>Quota exceeded</title>")
    with pytest.raises(MissingData, match="web page"):
        opened(page)
    for data in (
        b"",
        picture("v1"),
        gzip.compress(b"no tar"),
        bz2.compress(b""),
        lzma.compress(b"x" * 9999),
    ):
        page.write_bytes(data)
        with pytest.raises(CheckFailed, match=r"--backup .*b\.zip: "):
            opened(page)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckFailed, match="0 files"):
        opened(tmp_path / "empty")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(MissingData, match=f"--backup {tmp_path}: Permission denied; name a folder"):
        opened(tmp_path)


def test_truncated_archives_are_refused(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "s/0.tar", IDS)
    for path in (shard, zip_of(tmp_path / "b.zip", IDS), tar_of(tmp_path / "b.tgz", IDS, "w:gz")):
        path.write_bytes(path.read_bytes()[:-20000])
        with pytest.raises(CheckFailed, match="truncated"):
            opened(path.parent if path is shard else path)


def test_gz_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "b.tgz", IDS, "w:gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match="CRC"):
        opened(path)


def test_two_files_of_one_item(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "b", ["a/v1", "b/v1", "v2"])
    backup = opened(folder)
    assert backup.read("v1")[0] == picture("v1")
    (folder / "b/v1.jpg").write_bytes(b"another")
    with pytest.raises(Fault, match=r"REJECTED two_files.*a/v1\.jpg, b/v1\.jpg"):
        backup.read("v1")
    read = {item: data for item, data, _ in backup.read_all(["v1", "v2"])}
    assert isinstance(read["v1"], Fault)
    assert read["v2"] == picture("v2")
    backup.close()


def test_text_alone_is_no_cover(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "b", SOME)
    (folder / "v9.json").write_text("{}")
    backup = opened(folder)
    assert backup.lookup("v9") is None
    backup.close()


def test_bad_member_is_rejected_with_its_reason(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "b.zip", SOME)
    data = path.read_bytes()
    path.write_bytes(data.replace(picture("v2")[:20], bytes(20)))
    backup = opened(path)
    with pytest.raises(Fault, match="damaged") as caught:
        backup.read("v2")
    assert caught.value.outcome is Outcome.REJECTED
    assert backup.read("v1")[0] == picture("v1")
    backup.close()


def test_what_changes_or_goes_meanwhile_is_transient(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "b", SOME)
    shard = shard_of(folder / "0.tar", ["v10", "v11"])
    backup = opened(folder)
    (folder / "v1.jpg").unlink()
    shard_of(folder / "1.part", ["v11", "v10"]).replace(shard)
    for item, reason in (("v1", "unreadable"), ("v10", "changed")):
        with pytest.raises(Fault) as caught:
            backup.read(item)
        assert (caught.value.outcome, caught.value.reason) == (Outcome.TRANSIENT, reason)
    backup.close()


def test_too_large_is_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        info = tarfile.TarInfo("v1.jpg")
        info.size = (64 << 20) + 1
        tar.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        at = tar.fileobj.tell() + info.size + 511 & ~511  # type: ignore[union-attr]
        tar.fileobj.seek(at)  # type: ignore[union-attr]
        tar.offset = at
    for spec in (tmp_path, tmp_path / "0.tar"):
        backup = opened(spec)
        with pytest.raises(Fault, match="REJECTED too_large"):
            backup.read("v1")
        backup.close()


def test_ids_that_climb_read_only_what_was_listed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"secret")
    folder = folder_of(tmp_path / "x/y", ["v1"])
    backup = opened(folder, [*BAD_IDS, "v1"])
    for item in BAD_IDS:
        assert backup.lookup(item) is None
        with pytest.raises(LookupError):
            backup.read(item)
    backup.close()
    shard_of(folder / "0.tar", BAD_IDS[:-1])
    backup = opened(folder, [*BAD_IDS, "v1"])
    for item in BAD_IDS[:-1]:
        assert backup.read(item)[0] == picture(item)
    backup.close()


@pytest.mark.parametrize("name", ["../v1", "/v1"])
def test_archive_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    for path in (zip_of(tmp_path / "b.zip", [name]), tar_of(tmp_path / "b.tgz", [name], "w:gz")):
        with pytest.raises(CheckFailed, match="climbs out"):
            opened(path)


# ---------------------------------------------------------------- a server


class Server(ThreadingHTTPServer):
    """Serves a folder with ranges, counts requests and bytes, and plays faults."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges, self.tag, self.status = True, '"1"', 0
        self.cut = self.shift = 0  # bytes left out at the end, bytes that a range starts too late
        self.seen: list[tuple[str, str]] = []
        self.sent = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked, server = self.headers.get("Range", ""), self.server
        server.seen.append((self.path, asked))
        path = server.folder / unquote(self.path.partition("?")[0].lstrip("/"))
        if server.status or not path.is_file():
            self._head(server.status or 404, {"Content-Length": "0"})
            return
        size = path.stat().st_size
        start, stop, headers = 0, size, {"ETag": server.tag} if server.tag else {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if match and server.ranges:
            start, stop = (int(n) + server.shift for n in match.groups())
            stop = min(stop + 1, size)
            if start >= size:
                self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._head(
            206 if "Content-Range" in headers else 200,
            headers | {"Content-Length": str(stop - start)},
        )
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start - server.cut)
        server.sent += len(body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
        self.close_connection = bool(server.cut)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def web(server: Server) -> Iterator[Web]:
    web = Web(Guard(allowed=[f"127.0.0.1:{server.server_port}"]), "ninerec-test")
    yield web
    web.close()


def sparse_zip(path: Path, start: int, names: list[str]) -> Path:
    """A zip of pictures of 20 KB behind a hole."""
    with path.open("wb") as file:
        file.seek(start)
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(f"Bili_Food_cover/{name}.jpg", picture(name, 20_000))
    return path


def test_remote_zip_costs_its_directory_and_the_members_read(server: Server, web: Web) -> None:
    sparse_zip(server.folder / "big.zip", 50 << 20, IDS)
    backup = opened(server.url("big.zip"), web=web, only=False)
    assert len(server.seen) == 2  # the size, the tail
    for item in ("v1", "v50", "v100"):
        where = f"{server.url('big.zip')}!Bili_Food_cover/{item}.jpg"
        assert backup.read(item) == (picture(item, 20_000), where)
    assert len(server.seen) == 5
    assert server.sent < 3 * 21_000 + (64 << 10) + 10 < 300_000
    assert backup.lookup("v99") == "Bili_Food_cover/v99.jpg"
    backup.close()


def test_remote_zip_behind_4_gib_with_a_directory_longer_than_the_tail(
    server: Server, web: Web
) -> None:
    ids = [f"v{n}" for n in range(1, 1001)]
    with (server.folder / "b.zip").open("wb") as file:
        file.seek(5 << 30)
        with zipfile.ZipFile(file, "w") as archive:
            for name in ids:
                archive.writestr(f"{'long' * 10}/{name}.jpg", picture(name, 10))
    backup = opened(server.url("b.zip"), ids, web=web)
    assert backup.read("v777")[0] == picture("v777", 10)
    assert len(server.seen) == 4  # the size, the tail, the directory, the member
    backup.close()


def test_remote_member_with_a_long_header_of_its_own(server: Server, web: Web) -> None:
    with zipfile.ZipFile(server.folder / "b.zip", "w") as archive:
        info = zipfile.ZipInfo("v1.jpg")
        info.extra = b"\xfe\xca" + (5000).to_bytes(2, "little") + bytes(5000)
        archive.writestr(info, picture("v1"))
        archive.writestr("v2.jpg", picture("v2"))
    backup = opened(server.url("b.zip"), web=web)
    assert [backup.read(item)[0] for item in ("v1", "v2")] == [picture("v1"), picture("v2")]
    backup.close()


def test_server_without_ranges_is_refused_before_its_body_is_read(server: Server, web: Web) -> None:
    sparse_zip(server.folder / "b.zip", 50 << 20, SOME)
    server.ranges = False
    with pytest.raises(Fault, match=r"REJECTED no_ranges.*download the zip"):
        opened(server.url("b.zip"), web=web)


@pytest.mark.parametrize("tag", ['"2"', 'W/"2"', None])
def test_zip_that_changes_meanwhile_is_a_fault(server: Server, web: Web, tag: str | None) -> None:
    zip_of(server.folder / "b.zip", IDS)
    server.tag = '"1"' if tag == '"2"' else 'W/"1"' if tag else None
    backup = opened(server.url("b.zip"), web=web)
    assert backup.read("v1")[0] == picture("v1")
    if tag:
        server.tag = tag
    else:
        zip_of(server.folder / "b.zip", IDS[:50])  # shorter, the rest of the ranges is behind it
    for item in ("v1", "v99"):
        with pytest.raises(Fault) as caught:
            backup.read(item)
        assert (caught.value.outcome, caught.value.reason) == (Outcome.TRANSIENT, "changed")
    (server.folder / "b.zip").unlink()
    with pytest.raises(Fault, match="TRANSIENT changed"):  # the item itself is not gone
        backup.read("v1")
    backup.close()


def test_remote_faults(server: Server, web: Web) -> None:
    with pytest.raises(MissingData, match=r"--backup http://.*b\.zip: nothing is there"):
        opened(server.url("b.zip"), web=web)
    (server.folder / "b.zip").write_bytes(picture("no zip"))
    with pytest.raises(CheckFailed, match=r"--backup http.*b\.zip is truncated, damaged or no zip"):
        opened(server.url("b.zip"), web=web)
    zip_of(server.folder / "b.zip", IDS)
    backup = opened(server.url("b.zip"), web=web)
    server.cut = 100
    with pytest.raises(Fault, match=r"TRANSIENT (truncated|reset)"):
        backup.read("v1")
    server.cut, server.status = 0, 503
    with pytest.raises(Fault, match="TRANSIENT http_503"):
        backup.read("v1")
    server.status = 403
    with pytest.raises(Fault, match="BLOCKED forbidden"):
        backup.read("v1")
    backup.close()


def test_threads_that_read_a_remote_zip_do_not_mix(
    server: Server, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_of(server.folder / "b.zip", SOME)
    backup = opened(server.url("b.zip"), web=web)
    real, read = RemoteZip._bytes, {}

    def interrupted(self: RemoteZip, *args: int) -> bytes:
        if "v2" not in read:
            read["v2"] = None
            with ThreadPoolExecutor(1) as pool:
                read["v2"] = pool.submit(backup.read, "v2").result()[0]
        return real(self, *args)

    monkeypatch.setattr(RemoteZip, "_bytes", interrupted)
    assert backup.read("v1")[0] == picture("v1")
    assert read["v2"] == picture("v2")
    backup.close()


def test_remote_zip_cannot_claim_memory(
    server: Server, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_of(server.folder / "b.zip", IDS)
    monkeypatch.setattr("downloader.remote_zip.MAX_BYTES", 2999)
    backup = opened(server.url("b.zip"), web=web)
    asked = len(server.seen)
    with pytest.raises(Fault, match="REJECTED too_large"):
        backup.read("v1")
    assert len(server.seen) == asked
    monkeypatch.setattr("downloader.remote_zip.MAX_DIRECTORY", 3000)
    with pytest.raises(CheckFailed, match="a directory of"):
        opened(server.url("b.zip"), web=web)
    backup.close()


def test_other_range_than_asked_is_refused(server: Server, web: Web) -> None:
    zip_of(server.folder / "b.zip", IDS)
    server.shift = 1
    with pytest.raises(Fault, match="REJECTED wrong_range"):
        opened(server.url("b.zip"), web=web)


def test_zip_per_dataset_by_its_address(server: Server, web: Web) -> None:
    zip_of(server.folder / "bili_food.zip", SOME)
    backup = opened(server.url("{dataset}.zip"), web=web, only=False)
    assert backup.read("v3")[0] == picture("v3")
    backup.close()


# ---------------------------------------------------------------- an http base


def test_http_base_with_and_without_places(server: Server, web: Web) -> None:
    folder_of(server.folder, ["v1", "c/bili_food/p-v2"])
    (server.folder / "c/bili_food/p-v2.jpg").rename(server.folder / "c/bili_food/p-v2.webp")
    backup = opened(server.url(""), web=web)
    assert backup.read("v1") == (picture("v1"), server.url("v1.jpg"))
    assert backup.lookup("v2") == server.url("{item}.jpg")
    with pytest.raises(LookupError):
        backup.read("v2")
    backup = opened(server.url("c/{dataset}/p-{item}.webp?key=1"), web=web, only=False)
    assert backup.read("v2") == (picture("p-v2"), server.url("c/bili_food/p-v2.webp?..."))
    assert backup.name == server.url("c/{dataset}/p-{item}.webp?...")
    assert server.seen[-1][0].endswith("?key=1")


@pytest.mark.parametrize("base", ["base/", "base/{item}", "base/\u00e9 x/{item}.jpg"])
def test_http_base_never_asks_outside_itself(server: Server, web: Web, base: str) -> None:
    backup = opened(server.url(base), BAD_IDS, web=web)
    for item in BAD_IDS:
        with pytest.raises(LookupError):
            backup.read(item)
    asked = [path for path, _ in server.seen]
    assert len(asked) == 6  # "", "." and ".." are not asked at all
    for path in asked:
        assert path.startswith("/base/")
        assert path.count("/") == 1 + base.count("/")
    encoded = [unquote(path.rpartition("/")[2].removesuffix(".jpg")) for path in asked]
    assert encoded == [item for item in BAD_IDS if item.strip(".")]


def test_http_base_that_says_too_little_is_refused(web: Web) -> None:
    with pytest.raises(UsageError, match=r"--backup http://h/.*\{dataset\}"):
        opened("http://h/covers", web=web, only=False)
    for spec in ("http://h/c?id=", "http://h/{itm}.jpg"):
        with pytest.raises(UsageError, match=r"\{item\}"):
            opened(spec, web=web)
    with pytest.raises(UsageError, match="only http and https"):
        opened("ftp://h/b.zip", web=web)
    with pytest.raises(UsageError, match="no network"):
        opened("http://h/b.zip", web=None)


def test_http_base_faults(server: Server, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(server.folder, ["v1"])
    backup = opened(server.url(""), web=web)
    monkeypatch.setattr("downloader.backup.MAX_BYTES", 2999)
    with pytest.raises(Fault, match="REJECTED too_large"):
        backup.read("v1")
    server.cut = 100
    with pytest.raises(Fault, match=r"TRANSIENT (truncated|reset)"):
        backup.read("v1")
    server.status = 500
    with pytest.raises(Fault, match="TRANSIENT http_500"):
        backup.read("v1")
    server.status = 410
    with pytest.raises(LookupError):
        backup.read("v1")
