"""An S3 server of this machine (moto's), and a proxy before it that fails on request."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

BUCKET = "photographs"


@dataclass
class Faults:
    """What the next answers are: `503`, `cut` in the middle, `silent`, `damaged` (one byte flipped), or `pass`."""

    coming: list[str] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of every request that came."""
    lock: Any = field(default_factory=Lock)

    def next(self, path: str, asked: str | None) -> str:
        with self.lock:
            self.requests.append((path, asked))
            return self.coming.pop(0) if self.coming else "pass"


@contextmanager
def object_store() -> Iterator[str]:
    """The address of an empty S3 server with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        # moto's buckets live as long as the process.
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10).raise_for_status()
        _client(f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def put(address: str, key: str, data: bytes) -> None:
    _client(address).put_object(Bucket=BUCKET, Key=key, Body=data)


def _client(address: str) -> Any:
    keys = {"aws_access_key_id": "name", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=address, **keys)


@contextmanager
def proxy(upstream: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy before a server; it fails as `faults` says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = faults.next(self.path, self.headers.get("Range"))
            if fault.isdigit():
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(upstream.removeprefix("http://"))
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = bytearray(answer.read())
            if fault == "damaged":
                body[len(body) // 2] ^= 1
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            if fault == "pass" or fault == "damaged":
                self.wfile.write(body)
                return
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "silent":
                time.sleep(3)
            self.close_connection = True

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let boto3 find the server as a user's environment would tell it."""
    from shards import storage

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage._s3.cache_clear()
