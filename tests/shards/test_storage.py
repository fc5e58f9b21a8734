"""Bytes from a folder, from S3 and over HTTP, through every fault that passes and those that do not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from shards import storage
from shards.storage import Retries, StorageError, is_remote, read, without_secrets
from tests.shards.object_store import BUCKET, Faults, object_store, proxy, put, use

DATA = np.random.default_rng(0).integers(0, 256, 100_003, dtype=np.uint8).tobytes()
QUICK = Retries(attempts=4, first_pause=0.01, longest_pause=0.02)
S3 = f"s3://{BUCKET}/a/b.tar"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with object_store() as address:
        put(address, "a/b.tar", DATA)
        yield address


@pytest.fixture
def faults(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    reported = Faults()
    with proxy(server, reported) as address:
        use(monkeypatch, address)
        yield reported


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    """An HTTP server that knows no ranges."""
    (tmp_path / "b.tar").write_bytes(DATA)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    served = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()


RANGES = [(0, None), (0, 10), (99_000, None), (31, 70_001), (100_002, 1), (50, 0)]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_ranges_of_every_kind_of_place(
    tmp_path: Path, faults: Faults, plain: str, offset: int, length: int | None
) -> None:
    wanted = DATA[offset : None if length is None else offset + length]
    for address in (str(tmp_path / "b.tar"), S3, f"{plain}/b.tar"):
        assert read(address, offset=offset, length=length, retries=QUICK) == wanted


def test_s3_sends_only_what_is_asked_for(faults: Faults) -> None:
    read(S3, offset=31, length=5, retries=QUICK)
    assert faults.requests == [(f"/{BUCKET}/a/b.tar", "bytes=31-35")]


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut"])
def test_what_passes_is_tried_again(faults: Faults, fault: str) -> None:
    faults.coming = [fault] * 3
    assert read(S3, offset=7, length=90_000, retries=QUICK) == DATA[7:90_007]
    assert len(faults.requests) == 4


def test_an_attempt_goes_on_where_the_last_one_broke_off(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHUNK", 1000)
    faults.coming = ["cut", "cut"]
    assert read(S3, length=40_000, retries=QUICK) == DATA[:40_000]
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in faults.requests if asked]
    assert starts[0] == 0 and 18_000 < starts[1] <= 20_000 and 28_000 < starts[2] <= 30_000


def test_a_server_that_falls_silent_is_left(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SILENT_SECONDS", 0.3)
    storage._s3.cache_clear()
    faults.coming = ["silent"]
    assert read(S3, retries=QUICK) == DATA


def test_the_last_attempt_names_the_address_and_every_cause(faults: Faults) -> None:
    faults.coming = ["503", "cut", "500", "503"]
    with pytest.raises(StorageError, match=rf"{S3}: given up after 4 attempts: 503.*, then .*, then 500"):
        read(S3, retries=QUICK)


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_will_not_pass_is_reported_at_once(faults: Faults, status: str) -> None:
    faults.coming = [status]
    with pytest.raises(StorageError, match=rf"{S3}: .*\({status}"):
        read(S3, retries=QUICK)
    assert len(faults.requests) == 1


def test_an_object_that_is_not_there(faults: Faults, plain: str, tmp_path: Path) -> None:
    for address in (f"s3://{BUCKET}/none.tar", f"{plain}/none.tar"):
        with pytest.raises(StorageError, match=r"none.tar: there is no such object \(404"):
            read(address, retries=QUICK)
    with pytest.raises(StorageError, match=r"none.tar: No such file"):
        read(str(tmp_path / "none.tar"))
    with pytest.raises(StorageError, match=r"b.tar: it is 4 bytes too short"):
        read(str(tmp_path / "b.tar"), offset=len(DATA) - 6, length=10)


def test_an_object_that_ends_too_early(faults: Faults) -> None:
    with pytest.raises(StorageError, match=rf"^{S3}: it is 4 bytes too short$"):
        read(S3, offset=len(DATA) - 6, length=10, retries=QUICK)
    with pytest.raises(StorageError, match=rf"^{S3}: it is 9 bytes too short$"):
        read(S3, offset=len(DATA) + 1, length=9, retries=QUICK)


def test_an_empty_object_reads_as_an_empty_file_does(server: str, faults: Faults, tmp_path: Path) -> None:
    put(server, "empty", b"")
    (tmp_path / "empty").write_bytes(b"")
    for address in (str(tmp_path / "empty"), f"s3://{BUCKET}/empty"):
        assert read(address, retries=QUICK) == b"" == read(address, offset=3, retries=QUICK)
        for offset in (0, 3):
            with pytest.raises(StorageError, match=rf"^{address}: it is 7 bytes too short$"):
                read(address, offset=offset, length=7, retries=QUICK)


def test_a_web_server_that_has_no_such_range(server: str) -> None:
    reported = Faults(coming=["416", "416"])
    with proxy(server, reported) as address:
        assert read(f"{address}/b.tar", offset=9, retries=QUICK) == b""
        with pytest.raises(StorageError, match=r"b.tar: it is 7 bytes too short$"):
            read(f"{address}/b.tar", offset=9, length=7, retries=QUICK)


def test_a_transfer_that_is_cut_behind_the_last_byte_is_whole(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt asks for what is left, which is nothing."""
    real = storage._of_s3

    def cut_at_the_end(address: str, start: int, end: int | None) -> Iterator[bytes]:
        yield from real(address, start, end)
        if start == 0:
            raise storage.PassingError("cut")

    monkeypatch.setattr(storage, "_of_s3", cut_at_the_end)
    assert read(S3, retries=QUICK) == DATA
    assert [asked for _, asked in faults.requests] == [None, f"bytes={len(DATA)}-"]


def test_no_secret_is_reported(faults: Faults, plain: str) -> None:
    faults.coming = ["403"]
    with pytest.raises(StorageError) as reported:
        read(S3, retries=QUICK)
    assert "very secret" not in str(reported.value)
    address = plain.replace("http://", "http://user:very-secret@") + "/none.tar?signature=very-secret"
    with pytest.raises(StorageError) as reported:
        read(address, retries=QUICK)
    assert "very-secret" not in str(reported.value) and "/none.tar" in str(reported.value)
    assert without_secrets("s3://bucket/key") == "s3://bucket/key" and without_secrets("/a b/c?d") == "/a b/c?d"


def test_schemes() -> None:
    assert [is_remote(a) for a in ("/a/b", "a", "s3://a/b", "https://a/b")] == [False, False, True, True]
    with pytest.raises(ValueError, match=r"ftp://host/a: give a path, or an address with s3://"):
        is_remote("ftp://me:secret@host/a")
