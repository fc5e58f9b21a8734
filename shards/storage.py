"""Reads files, whole or in part, from a folder, an S3 bucket or an HTTP server.

    shards/train-000001.tar    s3://bucket/shards/train-000001.tar    https://host/shards/train-000001.tar

Temporary failures (500, 503, a closed or stalled connection) are retried with increasing pauses; permanent failures
(no such object, no permission) are reported immediately. S3 credentials, region and endpoint come only from the
environment, as boto3 reads it (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL_S3, …); they are never written.
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
"""Bytes per second: a transfer with a lower average rate is aborted and retried."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""
_NO_SUCH_RANGE = 416
"""HTTP status for a range that starts at or beyond the end of the object."""


class StorageError(OSError):
    """Data that could not be read; the message names the address and the cause."""


class PassingError(Exception):
    """A temporary failure: the next attempt may succeed."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Number of attempts and exponential backoff: each pause is random between half and all of a doubling limit."""

    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 20.0

    def pauses(self) -> Iterator[float]:
        """Seconds between the attempts."""
        for number in range(self.attempts - 1):
            yield min(self.longest_pause, self.first_pause * 2**number) * random.uniform(0.5, 1.0)


RETRIES = Retries()


def is_remote(address: str) -> bool:
    """True for an address that is not a local path. Raises ValueError for an unsupported scheme."""
    scheme = urlsplit(address).scheme if "://" in address else ""
    if scheme not in ("", "s3", "http", "https"):
        raise ValueError(f"{without_secrets(address)}: give a path, or an address with s3://, http:// or https://")
    return scheme != ""


def read(address: str, *, offset: int = 0, length: int | None = None, retries: Retries = RETRIES) -> bytes:
    """Read `length` bytes from `offset`, or up to the end if `length` is None.

    Raises: StorageError if the object does not exist or ends too early, or after the last attempt.
    """
    return b"".join(chunks(address, offset=offset, length=length, retries=retries))


def chunks(address: str, *, offset: int = 0, length: int | None = None, retries: Retries = RETRIES) -> Iterator[bytes]:
    """Like `read`, in chunks; after a failure the next attempt resumes after the last chunk received."""
    source = _source(address)
    received, end = 0, None if length is None else offset + length
    failures: list[str] = []
    pauses = retries.pauses()
    while True:
        try:
            for chunk in _watched(source(offset + received, end)):
                received += len(chunk)
                yield chunk
            if length is not None and received < length:
                raise PassingError(f"it ended after {received} of {length} bytes")
            return
        except PassingError as error:
            failures.append(str(error))
        pause = next(pauses, None)
        if pause is None:
            causes = ", then ".join(dict.fromkeys(failures))
            raise StorageError(f"{without_secrets(address)}: given up after {len(failures)} attempts: {causes}")
        time.sleep(pause)


def without_secrets(address: str) -> str:
    """The address without user, password and query, which may contain a signature."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks; raises `PassingError` if they arrive too slowly."""
    begun, received = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        received += len(chunk)
        late = time.monotonic() - begun - _SILENT_SECONDS
        if late > 0 and received < late * _LEAST_RATE:
            raise PassingError(f"the transfer was too slow ({received} bytes in {late + _SILENT_SECONDS:.0f} s)")


_Source = Callable[[int, int | None], Iterator[bytes]]
"""Reads from a first byte up to, not including, an end byte (the end of the object if None), in chunks."""


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
        raise StorageError(f"{path}: it is {left} bytes too short")


def _range(start: int, end: int | None) -> dict[str, str]:
    """The Range header of a part; none for a whole object, since an empty object has no valid range."""
    return {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}


def _refuse_short(address: str, start: int, end: int | None) -> None:
    """Handle status 416, no bytes from `start` on: a StorageError unless reading to the end was requested."""
    if end is not None:
        raise StorageError(f"{without_secrets(address)}: it is {end - start} bytes too short")


@functools.cache
def _s3() -> Any:
    """One client per process: importing boto3 and creating a client are slow."""
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
            f"{address}: cannot access S3: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except EndpointConnectionError as error:
        asked = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        raise PassingError(f"no server answers at {asked.hostname}:{asked.port or asked.scheme}") from error
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
            # A server without range support answers 200 and sends the whole object.
            skipped = start if answer.status_code == 200 else 0
            yield from _cut(answer.iter_content(_CHUNK), skipped, None if end is None else end - start)
    except requests.RequestException as error:
        raise PassingError(type(error).__name__) from error


def _cut(chunks: Iterator[bytes], skipped: int, length: int | None) -> Iterator[bytes]:
    """The chunks without the first `skipped` bytes, at most `length` bytes in total."""
    for chunk in chunks:
        chunk, skipped = chunk[skipped:], max(0, skipped - len(chunk))
        if length is not None:
            chunk, length = chunk[:length], length - len(chunk[:length])
        if chunk:
            yield chunk
        if length == 0:
            return


def _reason(status: int) -> str:
    known = {401: "access denied", 403: "access denied", 404: "there is no such object"}
    return known.get(status, "the server refused the request")
