"""Full, read-only, over a limit: what cannot be written or read is named, with what to do; nothing is half there."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from shards.file_system_errors import FileSystemError, disk_of, lasting_error, writing
from shards.files import write_bytes
from shards.records import BadSampleError
from shards.sources.disk import read_image
from tests.small_disk import small_disk

RESUMES = "the same command resumes from what is finished"


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def no_more_files() -> Iterator[None]:
    with limit(resource.RLIMIT_NOFILE, max(int(name) for name in os.listdir("/proc/self/fd")) + 20):
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            yield
        finally:
            for descriptor in held:
                os.close(descriptor)


def test_full_disk_names_path_and_content_and_leaves_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="1m") as disk:
        path = disk.path / "folder" / "run.json"
        write_bytes(path, b"before")
        disk.fill()
        with pytest.raises(FileSystemError) as caught:
            write_bytes(path, bytes(100_000), what="the record")
        assert str(caught.value) == (
            f"cannot write {path} (the record): no space is left on its disk {disk.path} (0 bytes free, about 100 kB "
            f"needed); free some space, or move the folder of runs to a larger disk; {RESUMES}"
        )
        assert path.read_bytes() == b"before" and os.listdir(path.parent) == ["run.json"]


def test_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="1m") as disk:
        disk.remount("ro")
        with pytest.raises(FileSystemError, match=r"disk/new/a.json: its file system is read-only; mount it for writ"):
            write_bytes(disk.path / "new" / "a.json", b"x")


def test_file_larger_than_allowed(tmp_path: Path) -> None:
    message = r"larger than a file may be \(limit 50000\); .*`ulimit -f`"
    with limit(resource.RLIMIT_FSIZE, 50_000), pytest.raises(FileSystemError, match=message):
        write_bytes(tmp_path / "a", bytes(60_000))
    assert os.listdir(tmp_path) == []


def test_too_many_open_files_is_no_damaged_image(tmp_path: Path) -> None:
    """An image recorded as missing would be missing for good."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with no_more_files():
        with pytest.raises(FileSystemError, match=r"cannot read .*a.jpg: this process has too many files open \(limit"):
            read_image(tmp_path, "a.jpg")
        with pytest.raises(FileSystemError, match=r"cannot write .*b: this process has too many files open"):
            write_bytes(tmp_path / "b", b"x")
    assert read_image(tmp_path, "a.jpg").size == (8, 8)
    with pytest.raises(BadSampleError, match=r"cannot read b.jpg: No such file"):
        read_image(tmp_path, "b.jpg")


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EDQUOT, "disk quota is used up"), (errno.ENFILE, "the whole system has too many files")]
)
def test_siblings_that_a_test_cannot_bring_about(code: int, words: str) -> None:
    reported = lasting_error(OSError(code, os.strerror(code)), Path("a"))
    assert reported is not None and words in str(reported) and str(reported).endswith(RESUMES)


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "none").read_bytes()
    assert lasting_error(OSError(errno.EIO, "i/o"), "a") is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_permission_is_lasting_for_writing_only(code: int, tmp_path: Path) -> None:
    error = lasting_error(OSError(code, "x"), tmp_path / "a")
    assert error is not None and " user " in str(error) and f"cannot write {tmp_path / 'a'}: " in str(error)
    assert lasting_error(OSError(code, "x"), tmp_path / "a", verb="read") is None, "other files can be read"


def test_disk_of_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="1m") as disk:
        found = disk_of(disk.path / "a" / "b.tar")
        assert found.mount == disk.path and 900_000 < found.free <= 1_048_576
        assert found.describe(needed=2_500_000) == f"{disk.path} (1.05 MB free, about 2.5 MB needed)"
