"""A fake of AWS's instance metadata service, version 2, for announcements of the end of a spot instance."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeImds:
    """`announce` makes the announcement; `expire` invalidates all tokens given so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.announced: dict[str, str] | None = None
        self.tokens: list[str] = []
        self.valid: set[str] = set()
        self.looks = 0

    def announce(self, *, when: str) -> None:
        self.announced = {"action": "terminate", "time": when}

    def expire(self) -> None:
        self.valid.clear()


NOW = "Sun, 29 Nov 2026 12:00:00 GMT"
SOON = "2026-11-29T12:01:30Z"
"""90 seconds after `NOW`."""


@contextmanager
def fake_imds() -> Iterator[FakeImds]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            token = f"token-{len(fake.tokens)}"
            fake.tokens.append(token)
            fake.valid.add(token)
            self._answer(200 if asked else 400, token)

        def do_GET(self) -> None:
            if self.headers["X-aws-ec2-metadata-token"] not in fake.valid:
                return self._answer(401, "")
            fake.looks += 1
            if self.path != "/latest/meta-data/spot/instance-action" or fake.announced is None:
                return self._answer(404, "")
            self._answer(200, json.dumps(fake.announced))

        def _answer(self, status: int, text: str) -> None:
            self.send_response_only(status)
            self.send_header("Date", NOW)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeImds(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
