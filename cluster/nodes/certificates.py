"""`wsss cluster certificates`: TLS between the nodes by Ray's own means (RAY_USE_TLS).

A node's certificate must name its address, which on a cloud is known only when the node starts. So the folder
~/.ray/tls, which `ray up` copies to all nodes, holds an authority with its key, and every node signs a certificate for
its own addresses when it starts (`cluster/node_environment.sh` names the files to Ray). Whoever has the authority's
key can join the cluster; it is as secret as the token beside it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

AUTHORITY = Path("~/.ray/tls")
_MOST_DAYS = 36500
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def certificates(node: Path | None, *, days: int) -> int:
    """Make the authority, or with a folder the certificate of this machine; prints what was written."""
    if not 1 <= days <= _MOST_DAYS:
        raise ValueError(f"--days {days}: allowed are 1 to {_MOST_DAYS}")
    folder = AUTHORITY.expanduser()
    if node is not None:
        addresses = make_node_certificate(folder, node, days=days)
        print(f"{node}/node.crt: valid for {', '.join(addresses)}")
        return 0
    make_authority(folder, days=days)
    print(f"{folder}: authority made, valid for {days} days; the nodes use TLS from the next `ray up`")
    print("To turn TLS off, remove this folder here and on the nodes, and call `ray up` again.")
    return 0


def make_authority(folder: Path, *, days: int) -> None:
    """Write ca.crt and ca.key. Raises ValueError if there are some, since running nodes trust those."""
    if (folder / "ca.key").exists():
        raise ValueError(f"{folder} holds an authority already, which running nodes trust; remove the folder first")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("wsss cluster authority")
    builder = _builder(name, name, key.public_key(), days=days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    _write(folder / "ca.key", _pem(key))
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))


def make_node_certificate(authority: Path, folder: Path, *, days: int) -> list[str]:
    """Write node.crt and node.key for all addresses of this machine, signed by the authority; returns the addresses.

    Raises ValueError if there is no authority.
    """
    try:
        issuer = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
        issuer_key = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), password=None)
    except FileNotFoundError as error:
        raise ValueError(f"there is no authority in {authority}; make it: wsss cluster certificates") from error
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey), "make_authority wrote it"
    key, addresses = ec.generate_private_key(ec.SECP256R1()), _addresses()
    names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    names += [x509.DNSName("localhost"), x509.DNSName(socket.gethostname())]
    left = (issuer.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days
    if left < 1:
        raise ValueError(f"the authority in {authority} has expired; remove the folder and make it anew")
    builder = _builder(_name(socket.gethostname()), issuer.subject, key.public_key(), days=min(days, left))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / "node.key", _pem(key))
    _write(folder / "node.crt", certificate.public_bytes(serialization.Encoding.PEM))
    return addresses


def _addresses() -> list[str]:
    """All addresses of this machine's network interfaces, without the zones of IPv6."""
    interfaces = psutil.net_if_addrs().values()
    found = {part.address.partition("%")[0] for parts in interfaces for part in parts if part.family in _FAMILIES}
    return sorted(found | {"127.0.0.1"})


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=10))  # for clocks that differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Readable by this user only, from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
