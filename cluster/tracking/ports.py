"""Ports of this machine: whether one is free, and which process listens on it."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

import psutil

HOST = "127.0.0.1"


def checked_port(text: str, *, name: str) -> int:
    """The number of a port, given as text. Raises ValueError, which says `name`, if it is none."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError(f"{name} = {text!r} is no port; allowed are whole numbers from 1 to 65535")
    return int(text)


def why_not_free(port: int) -> str:
    """Why no server can listen on this port of 127.0.0.1, in words; empty if one can."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
            tried.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"port {port} cannot be used ({error.strerror})"
            return f"port {port} is taken by another program{_described(port)}"
    return ""


def accepts(port: int) -> bool:
    """Whether any program accepts connections at this port of 127.0.0.1."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def listens(port: int, *, group: int) -> bool:
    """Whether a process of this process group listens on the port: an answer there can then come from no other."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and port in _ports(process):
                return True
    return False


def _ports(process: psutil.Process) -> set[int]:
    listening = (one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return {one.laddr.port for one in listening}


def _described(port: int) -> str:
    """` (process 12: python -m http.server)`; empty if it belongs to another user."""
    with suppress(psutil.Error, PermissionError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                words = " ".join(psutil.Process(one.pid).cmdline())
                return f" (process {one.pid}: {words[:80]})"
    return ""
