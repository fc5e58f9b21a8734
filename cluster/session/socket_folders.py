"""Short folders for sockets: a socket's path may have 107 bytes, and a job's TMPDIR may use most of them."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import util
from pathlib import Path

LONGEST_PATH = 107
"""Longest path of a socket on Linux, in bytes."""
_RAY = "/session_2026-11-29_05-51-17_723950_4194304/sockets/plasma_store.1"
"""The longest socket path below Ray's own folder."""
_MULTIPROCESSING = "/pymp-12345678/listener-12345678"
"""The longest socket path of Python's multiprocessing below the folder of temporary files."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp")  # writable by every user on most systems


def ray_folder() -> tuple[str | None, str]:
    """The folder for a Ray session's files (None: Ray's default), and a message if it is not the default.

    Raises ValueError if Ray's default is too long and no short folder is writable.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    chosen = os.environ.get(variable, "/tmp") if variable else "/tmp"
    if _fits(f"{chosen}/ray", _RAY):
        return None, ""
    long = f"{variable} = {chosen!r} is too long for Ray's sockets, whose paths take at most {LONGEST_PATH} bytes"
    short = None if variable == "RAY_TMPDIR" else _short_folder(f"/ray{_RAY}")
    if short is None:
        raise ValueError(f"{long}; set RAY_TMPDIR to a folder of at most {LONGEST_PATH - len(f'/ray{_RAY}')} bytes")
    return f"{short}/ray", f"{long}: its session is in {short}/ray; set RAY_TMPDIR to use another folder"


def use_short_folder_for_multiprocessing() -> None:
    """Put the sockets of this process and of its children into a short folder if TMPDIR is too long for them.

    Temporary files stay in TMPDIR. Raises ValueError if no short folder is writable.
    """
    if _fits(tempfile.gettempdir(), _MULTIPROCESSING):
        return
    if (short := _short_folder(_MULTIPROCESSING)) is None:
        raise ValueError(
            f"TMPDIR = {tempfile.gettempdir()!r} is too long for the sockets of loader_workers, whose paths take at "
            f"most {LONGEST_PATH} bytes; set TMPDIR to a folder of at most {LONGEST_PATH - len(_MULTIPROCESSING)} "
            "bytes, or loader_workers = 0"
        )
    before, tempfile.tempdir = tempfile.tempdir, short
    try:
        util.get_temp_dir()  # created now, and used for all later sockets
    finally:
        tempfile.tempdir = before


def _fits(folder: str, below: str) -> bool:
    return len(os.fsencode(os.path.abspath(folder) + below)) <= LONGEST_PATH


def _short_folder(below: str) -> str | None:
    for folder in _SHORT_FOLDERS:
        if Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK) and _fits(folder, below):
            return folder
    return None
