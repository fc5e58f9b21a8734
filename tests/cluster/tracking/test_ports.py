from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from cluster.tracking.ports import accepts, checked_port, listens, why_not_free

SERVER = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "", "5 000", "٥"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match=r"WSSS_X = .* is no port; allowed are whole numbers from 1 to 65535"):
        checked_port(text, name="WSSS_X")


def test_ports() -> None:
    assert [checked_port(text, name="x") for text in ("1", "5000", "65535")] == [1, 5000, 65535]


def test_the_process_that_holds_a_port_is_named_and_belongs_to_its_own_group() -> None:
    words = [sys.executable, "-c", SERVER + "time.sleep(60)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        try:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            assert f"port {port} is taken by another program (process {other.pid}: " in why_not_free(port)
            assert accepts(port)
            assert listens(port, group=other.pid)
            assert not listens(port, group=os.getpgid(0)) and not listens(port + 1, group=other.pid)
        finally:
            other.kill()
    assert why_not_free(port) == "" and not accepts(port)


def test_a_port_that_is_only_connected_to_is_not_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert not listens(client.getsockname()[1], group=os.getpgid(0))
        assert listens(port, group=os.getpgid(0))
