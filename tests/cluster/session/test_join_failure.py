"""A cluster that listens but refuses this process: the true cause is reported, and at once where the token differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray._raylet import Config  # type: ignore[attr-defined]

from cluster.session import ray_session
from cluster.session.ray_session import connect

RIGHT, WRONG = "ab" * 32, "cd" * 32


class Gate(grpc.GenericRpcHandler):
    """Answers every method, as Ray's servers do, only to requests with the token."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        given = dict(details.invocation_metadata).get("authorization")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if given != f"Bearer {RIGHT}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(autouse=True)
def _settings_of_ray() -> Iterator[None]:
    """Ray keeps variables and token; after a test, and after `monkeypatch`, it reads them anew."""
    yield
    Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture
def port() -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Gate(),))
    number = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield number
    server.stop(None)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that `ray.init` was called with; it does nothing."""
    calls: list[str] = []
    monkeypatch.setattr(ray, "init", lambda address, **options: calls.append(address))
    return calls


def use_token(token: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / token[:2]
    path.write_text(token)
    for name in ("RAY_AUTH_TOKEN", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    return path


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_another_token_is_refused_before_ray_starts(
    form: str, port: int, joined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = form.format(port)
    path = use_token(WRONG, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="compare it with that of the head") as raised:
        connect(address)
    digest = hashlib.sha256(WRONG.encode()).hexdigest()[:12]
    assert f"the Ray cluster at {address} refuses the token of {path} (SHA-256 {digest}" in str(raised.value)
    assert WRONG not in str(raised.value) and joined == []
    use_token(RIGHT, tmp_path, monkeypatch)
    assert connect(address) and joined == [address]


def test_a_missing_token_is_named(
    port: int, joined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_token(RIGHT, tmp_path, monkeypatch).unlink()
    with pytest.raises(ValueError, match="needs a token, and this process has none: copy"):
        connect(f"127.0.0.1:{port}")
    assert joined == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionAbortedError("Initialization failure from server:\nServer startup failed for client: 1"),
            "cannot join it: Initialization failure from server: Server startup failed for client: 1; the head starts "
            "a process for every caller at ray://, and may be too busy: try again, or submit a job",
        ),
        (RuntimeError("Version mismatch: 2.59"), "Version mismatch: 2.59; install the versions of constraints.txt"),
        (ray.exceptions.AuthenticationError("no token was found"), "cannot join it: no token was found"),
    ],
)
def test_other_causes_are_not_called_a_cluster_that_does_not_answer(
    error: Exception, message: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_token(RIGHT, tmp_path, monkeypatch)

    def init(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_session, "check_working_folder", lambda folder: None)
    with pytest.raises(ValueError, match=f"the Ray cluster at ray://127.0.0.1:{port} answers, but") as raised:
        connect(f"ray://127.0.0.1:{port}")
    assert message in str(raised.value)


def test_nothing_listens() -> None:
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127.0.0.1:1 \(.*Connection refused\)"):
        connect("127.0.0.1:1")
