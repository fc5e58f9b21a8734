"""What counts as an SSH server; test_file_check.py has the rest of the check of own machines."""

from __future__ import annotations

import socket
import threading

import pytest

from cluster.check import own_machines


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (b"SSH-2.0-OpenSSH\r\n", ""),
        (b"welcome\r\nSSH-2.0-x\r\n", ""),
        (b"", "no SSH server"),
        (b"220 ftp\r\n", "no SSH"),
    ],
    ids=["ssh", "lines before", "silent", "another server"],
)
def test_a_listener_that_is_no_ssh_server_is_refused(says: bytes, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_machines, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(own_machines, "_SSH", server.getsockname()[1])
        accepted: list[socket.socket] = []

        def accept() -> None:
            accepted.append(server.accept()[0])
            accepted[0].sendall(says)

        thread = threading.Thread(target=accept)
        thread.start()
        found = own_machines._no_ssh("127.0.0.1")
        thread.join()
        accepted[0].close()
    assert cause in found and bool(cause) == bool(found)
