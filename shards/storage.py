"""Where bytes lie: a folder, an S3 bucket, an HTTP server. One function reads them, whole or in part.

    shards/train-000001.tar    s3://bucket/shards/train-000001.tar    https://host/shards/train-000001.tar

What may pass (a 500, a 503, a connection that is cut or stands still) is tried again with growing pauses; what will not
pass (no such object, no permission) is told at once. S3 takes its credentials, region and endpoint from the
environment alone, as boto3 does (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL_S3, …); none of them is ever written.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 1 << 20
_CONNECT_SECONDS, _SILENT_SECONDS = 10, 30
_LEAST_RATE = 64 * 1024
"""Bytes per second: a transfer that has become slower than this on the whole is broken off and begun anew."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""
_NO_SUCH_RANGE = 416
"""HTTP's status of an object that ends before the part that is asked for."""


class StorageError(OSError):
    """Bytes that could not be had; the message names the address and the cause."""


class PassingError(Exception):
    """A failure that the next attempt may not meet."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a read is tried, and the pauses between: each twice the one before, drawn from its upper half."""

    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 20.0

    def pauses(self) -> Iterator[float]:
        """Seconds between the attempts."""
        for number in range(self.attempts - 1):
            yield min(self.longest_pause, self.first_pause * 2**number) * random.uniform(0.5, 1.0)


RETRIES = Retries()


def is_remote(address: str) -> bool:
    """True for an address that is no path of this machine. Raises ValueError for a scheme that nothing here reads."""
    scheme = urlsplit(address).scheme if "://" in address else ""
    if scheme not in ("", "s3", "http", "https"):
        raise ValueError(f"{without_secrets(address)}: give a path, or an address with s3://, http:// or https://")
    return scheme != ""


def read(address: str, *, offset: int = 0, length: int | None = None, retries: Retries = RETRIES) -> bytes:
    """`length` bytes from `offset` on, to the end where None.

    Raises: StorageError where there is no such object or it ends too early, or after the last attempt.
    """
    return b"".join(chunks(address, offset=offset, length=length, retries=retries))


def chunks(address: str, *, offset: int = 0, length: int | None = None, retries: Retries = RETRIES) -> Iterator[bytes]:
    """As `read`, in pieces; after a failure the next attempt goes on behind the last piece that came."""
    source = _source(address)
    come, end = 0, None if length is None else offset + length
    failures: list[str] = []
    pauses = retries.pauses()
    while True:
        try:
            for chunk in _watched(source(offset + come, end)):
                come += len(chunk)
                yield chunk
            if length is not None and come < length:
                raise PassingError(f"it ended after {come} of {length} bytes")
            return
        except PassingError as error:
            failures.append(str(error))
        pause = next(pauses, None)
        if pause is None:
            told = ", then ".join(dict.fromkeys(failures))
            raise StorageError(f"{without_secrets(address)}: given up after {len(failures)} attempts: {told}")
        time.sleep(pause)


def without_secrets(address: str) -> str:
    """The address less a user, a password and a query, which may hold a signature."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _watched(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, as long as they come fast enough."""
    begun, come = time.monotonic(), 0
    for piece in pieces:
        yield piece
        come += len(piece)
        late = time.monotonic() - begun - _SILENT_SECONDS
        if late > 0 and come < late * _LEAST_RATE:
            raise PassingError(f"it came too slowly ({come} bytes in {late + _SILENT_SECONDS:.0f} s)")


_Source = Callable[[int, int | None], Iterator[bytes]]
"""From the first byte to the last but one (the end where None) to its pieces."""


def _source(address: str) -> _Source:
    if not is_remote(address):
        return functools.partial(_of_file, Path(address))
    if address.startswith("s3://"):
        return functools.partial(_of_s3, address)
    return functools.partial(_of_http, address)


def _of_file(path: Path, start: int, end: int | None) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                chunk = file.read(_CHUNK if left is None else min(_CHUNK, left))
                if not chunk:
                    break
                left = None if left is None else left - len(chunk)
                yield chunk
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if left:
        raise StorageError(f"{path}: it ends {left} bytes too early")


def _range(start: int, end: int | None) -> dict[str, str]:
    """The header of a part; none of a whole object, of which an empty one has no part."""
    return {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def _refuse_short(address: str, start: int, end: int | None) -> None:
    """What a server's answer 416 means: it has nothing from `start` on. Raises StorageError unless that is the end."""
    if end is not None:
        raise StorageError(f"{without_secrets(address)}: it ends {end - start} bytes too early")


@functools.cache
def _s3() -> Any:
    """One client per process; boto3 takes a while to import and to make one."""
    import boto3
    from botocore.config import Config

    own = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_SILENT_SECONDS, retries={"total_max_attempts": 1})
    return boto3.client("s3", config=own)


def _of_s3(address: str, start: int, end: int | None) -> Iterator[bytes]:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
        NoRegionError,
    )
    from urllib3.exceptions import HTTPError

    bucket, _, key = address.removeprefix("s3://").partition("/")
    if end == start:
        return
    try:
        body = _s3().get_object(Bucket=bucket, Key=key, **_range(start, end))["Body"]
        with closing(body):
            yield from iter(lambda: body.read(_CHUNK), b"")
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        words = f"{status} {error.response.get('Error', {}).get('Code', '')}".strip()
        if status in _PASSING:
            raise PassingError(words) from error
        if status == _NO_SUCH_RANGE:
            return _refuse_short(address, start, end)
        raise StorageError(f"{address}: {_reason(status)} ({words})") from error
    except (NoCredentialsError, NoRegionError) as error:
        raise StorageError(
            f"{address}: S3 cannot be asked: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except EndpointConnectionError as error:
        asked = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        raise PassingError(f"nobody answers at {asked.hostname}:{asked.port or asked.scheme}") from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise PassingError(type(error).__name__) from error


@functools.cache
def _http() -> Any:
    import requests

    return requests.Session()


def _of_http(address: str, start: int, end: int | None) -> Iterator[bytes]:
    import requests

    if end == start:
        return
    try:
        headers = {**_range(start, end), "Accept-Encoding": "identity"}
        answer = _http().get(address, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _SILENT_SECONDS))
        with closing(answer):
            if answer.status_code in _PASSING:
                raise PassingError(str(answer.status_code))
            if answer.status_code == _NO_SUCH_RANGE:
                return _refuse_short(address, start, end)
            if answer.status_code not in (200, 206):
                raise StorageError(f"{without_secrets(address)}: {_reason(answer.status_code)} ({answer.status_code})")
            # A server that knows no ranges answers 200 and sends everything.
            skipped = start if answer.status_code == 200 else 0
            yield from _cut(answer.iter_content(_CHUNK), skipped, None if end is None else end - start)
    except requests.RequestException as error:
        raise PassingError(type(error).__name__) from error


def _cut(pieces: Iterator[bytes], skipped: int, length: int | None) -> Iterator[bytes]:
    """The pieces less the first `skipped` bytes, and no more than `length`."""
    for piece in pieces:
        piece, skipped = piece[skipped:], max(0, skipped - len(piece))
        if length is not None:
            piece, length = piece[:length], length - len(piece[:length])
        if piece:
            yield piece
        if length == 0:
            return


def _reason(status: int) -> str:
    known = {401: "not allowed", 403: "not allowed", 404: "there is no such object"}
    return known.get(status, "the server refuses")
