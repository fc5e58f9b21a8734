from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from cluster.nodes.certificates import certificates, make_authority, make_node_certificate


def test_the_authority_is_secret_and_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    make_authority(folder, days=3)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"ca.crt": 0o600, "ca.key": 0o600}
    with pytest.raises(ValueError, match="holds an authority already, which running nodes trust"):
        make_authority(folder, days=3)


def test_two_nodes_trust_each_other_by_address(tmp_path: Path) -> None:
    """A TLS connection of two nodes of one authority, which check each other as Ray does. A stranger is refused."""
    for authority in ("ours", "other"):
        make_authority(tmp_path / authority, days=3)
    for node, authority in (("a", "ours"), ("b", "ours"), ("stranger", "other")):
        addresses = make_node_certificate(tmp_path / authority, tmp_path / node, days=100)
        assert "127.0.0.1" in addresses
    assert shaken_hands(tmp_path, "a", "b")
    assert not shaken_hands(tmp_path, "a", "stranger")


def shaken_hands(folder: Path, server: str, client: str) -> bool:
    def context(node: str, purpose: ssl.Purpose) -> ssl.SSLContext:
        made = ssl.create_default_context(purpose, cafile=folder / "ours" / "ca.crt")
        made.load_cert_chain(folder / node / "node.crt", folder / node / "node.key")
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    with socket.create_server(("127.0.0.1", 0)) as listening:
        results: list[bool] = []

        def serve() -> None:
            try:
                with context(server, ssl.Purpose.CLIENT_AUTH).wrap_socket(listening.accept()[0], server_side=True) as s:
                    results.append(s.recv(2) == b"hi")
            except ssl.SSLError:
                results.append(False)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            plain = socket.create_connection(listening.getsockname(), timeout=10)
            with context(client, ssl.Purpose.SERVER_AUTH).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(b"hi")
        except (ssl.SSLError, ConnectionError):
            pass
        thread.join()
    return results[0]


def test_a_node_names_its_addresses_and_expires_with_its_authority(tmp_path: Path) -> None:
    make_authority(tmp_path / "tls", days=10)
    addresses = make_node_certificate(tmp_path / "tls", tmp_path / "node", days=100)
    node = x509.load_pem_x509_certificate((tmp_path / "node" / "node.crt").read_bytes())
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        str(ipaddress.ip_address(address)) for address in addresses
    ]
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    authority = x509.load_pem_x509_certificate((tmp_path / "tls" / "ca.crt").read_bytes())
    assert node.not_valid_after_utc <= authority.not_valid_after_utc
    make_node_certificate(tmp_path / "tls", tmp_path / "node", days=1)  # at every start of the node


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no authority in .*make it: wsss cluster certificates"):
        certificates(tmp_path / "node", days=1)
    for days in (0, 99_999_999):
        with pytest.raises(ValueError, match=f"--days {days}: allowed are 1 to 36500"):
            certificates(None, days=days)
    assert certificates(None, days=30) == 0
    assert f"{tmp_path}/.ray/tls: authority made, valid for 30 days" in capsys.readouterr().out
    assert certificates(tmp_path / "node", days=30) == 0
    assert "valid for" in capsys.readouterr().out
