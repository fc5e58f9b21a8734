from __future__ import annotations

import multiprocessing
import tempfile
from multiprocessing import connection, util
from pathlib import Path

import pytest

from cluster.session import socket_folders
from cluster.session.socket_folders import LONGEST_PATH, ray_folder, use_short_folder_for_multiprocessing


def folder_of(base: Path, length: int) -> Path:
    """A folder whose path has this many bytes."""
    path = base / ("x" * (length - len(str(base)) - 1))
    path.mkdir(parents=True)
    assert len(str(path)) == length
    return path


@pytest.fixture
def short_base() -> Path:
    """A folder with a short path, since pytest's folders have long ones."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


@pytest.mark.parametrize(("length", "fits"), [(37, True), (38, False), (80, False)])
def test_a_long_tmpdir_gives_the_session_a_short_folder(
    length: int, fits: bool, short_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder_of(short_base, length)))
    folder, message = ray_folder()
    if fits:
        assert (folder, message) == (None, "")
    else:
        assert folder == "/tmp/ray" and "TMPDIR = '/tmp/t" in message and "its session is in /tmp/ray" in message


def test_bytes_are_counted_and_not_characters(short_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(short_base / "ääääääääääää"))
    assert len(f"{short_base}/ääääääääääää") < 37 and ray_folder()[0] == "/tmp/ray"


def test_a_folder_that_the_user_chose_for_ray_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("RAY_TMPDIR", "/data/" + "x" * 60)
    with pytest.raises(ValueError, match=r"RAY_TMPDIR = '/data/x+' is too long for Ray's sockets.*at most 37 bytes"):
        ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/data/ray")
    assert ray_folder() == (None, "")


def test_without_a_short_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, short_base: Path) -> None:
    monkeypatch.setattr(socket_folders, "_SHORT_FOLDERS", (str(short_base / "absent"),))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder_of(short_base, 90)))
    with pytest.raises(ValueError, match=r"TMPDIR = .* set RAY_TMPDIR to a folder of at most"):
        ray_folder()
    monkeypatch.setattr(tempfile, "tempdir", str(folder_of(short_base, 91)))
    with pytest.raises(ValueError, match=r"TMPDIR = .* is too long for the sockets of loader_workers"):
        use_short_folder_for_multiprocessing()


def test_sockets_of_multiprocessing_fit_and_temporary_files_stay(
    short_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = folder_of(short_base, 100)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    use_short_folder_for_multiprocessing()
    assert tempfile.gettempdir() == str(long)
    assert len(util.get_temp_dir()) + len("/listener-12345678") <= LONGEST_PATH
    with connection.Listener(family="AF_UNIX") as listener:  # raises OSError where the path is too long
        assert str(listener.address).startswith("/tmp/pymp-")
