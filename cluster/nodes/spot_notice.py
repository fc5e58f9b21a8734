"""Asks Ray to drain this node when AWS announces that it will take the (spot) instance away, two minutes ahead.

    python -m cluster.nodes.spot_notice [--address HOST:PORT] [--endpoint URL] [--interval SECONDS]

Runs on every node beside Ray (see `cluster/README.md`), since Ray itself does not read the announcement. A node that is
being drained gets no new work, and a training saves a checkpoint at its next step and resumes on other nodes. The
program ends when the drain is accepted; on a machine without the instance metadata service it ends at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

ENDPOINT = "http://169.254.169.254"
INTERVAL = 5.0
"""AWS recommends to look every 5 seconds."""
NOTICE_SECONDS = 120.0
"""Time between the announcement and the end of the instance, if the announcement names none that can be read."""
_TOKEN_SECONDS, _TIMEOUT = 21_600, 2.0
_TOKEN, _TOKEN_LIFE = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"
_DRAIN_ATTEMPTS = 10


@dataclass(frozen=True)
class SpotNotice:
    """An announced end of this instance."""

    action: str
    """`terminate`, `stop` or `hibernate`."""
    seconds: float
    """Seconds left until then."""


class NoMetadataError(RuntimeError):
    """There is no instance metadata service here: not an EC2 instance, or it is turned off."""


class Metadata:
    """The instance metadata service, version 2, which needs a token for every request."""

    def __init__(self, endpoint: str = ENDPOINT) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token, self._until = "", 0.0

    def notice(self) -> SpotNotice | None:
        """The announcement for this instance, None if there is none. Raises `NoMetadataError`, or a requests error."""
        answer = self._get("/latest/meta-data/spot/instance-action")
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        found = json.loads(answer.text)
        return SpotNotice(
            str(found.get("action", "terminate")), _seconds_left(found.get("time"), answer.headers.get("Date"))
        )

    def _get(self, path: str) -> requests.Response:
        if time.monotonic() > self._until:
            self._renew()
        answer = requests.get(self._endpoint + path, headers={_TOKEN: self._token}, timeout=_TIMEOUT)
        if answer.status_code == 401:  # the token ran out earlier than announced
            self._renew()
            answer = requests.get(self._endpoint + path, headers={_TOKEN: self._token}, timeout=_TIMEOUT)
        return answer

    def _renew(self) -> None:
        try:
            answer = requests.put(
                f"{self._endpoint}/latest/api/token", headers={_TOKEN_LIFE: str(_TOKEN_SECONDS)}, timeout=_TIMEOUT
            )
            answer.raise_for_status()
        except requests.RequestException as error:
            raise NoMetadataError(f"no instance metadata service answers at {self._endpoint}: {error}") from error
        self._token, self._until = answer.text, time.monotonic() + _TOKEN_SECONDS / 2


def _seconds_left(when: object, now: str | None) -> float:
    """Seconds from the service's own `Date` to the announced time: this machine's clock may be wrong."""
    try:
        end = datetime.strptime(str(when), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        here = datetime.strptime(str(now), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return NOTICE_SECONDS
    return min(max((end - here).total_seconds(), 0.0), NOTICE_SECONDS)


Pause = Callable[[float], None]


def watch(
    metadata: Metadata, drain: Callable[[SpotNotice], None], *, interval: float, pause: Pause = time.sleep
) -> None:
    """Look until an announcement is made, then drain. Errors of single requests are ignored.

    Raises `NoMetadataError` if no service answers the first one.
    """
    from ray.exceptions import RayError

    notice, answered = None, False
    while notice is None:
        try:
            notice, answered = metadata.notice(), True
        except (requests.RequestException, NoMetadataError, ValueError) as error:
            if isinstance(error, NoMetadataError) and not answered:
                raise
            print(f"the instance metadata cannot be read ({error}); trying again", file=sys.stderr, flush=True)
        if notice is None:
            pause(interval)
    for attempt in range(1, _DRAIN_ATTEMPTS + 1):
        try:
            drain(notice)
            return
        except (RuntimeError, RayError) as error:  # the head may be busy, or away for a moment
            print(f"attempt {attempt} to drain this node failed: {error}", file=sys.stderr, flush=True)
            pause(1.0)
    raise RuntimeError(f"Ray did not accept that this node is drained, although the instance will {notice.action}")


def drain_this_node(notice: SpotNotice, *, address: str, node_id: str = "") -> None:
    """Ask Ray's head to drain the node (or all nodes) of this machine, or the one with this id.

    Raises RuntimeError if it refuses, or does not know the node.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=address)
    node_ip = ray.util.get_node_ip_address()
    alive = [node for node in client.get_all_node_info().values() if node.state == 0]
    here = [node.node_id.hex() for node in alive if node.node_manager_address == node_ip]
    if node_id:
        here = [node_id]
    if not here:
        known = ", ".join(sorted(node.node_manager_address for node in alive))
        raise RuntimeError(f"Ray at {address} knows no node with the address {node_ip}, only {known}")
    deadline = int((time.time() + notice.seconds) * 1000)
    words = f"AWS will {notice.action} this spot instance in {notice.seconds:.0f} s"
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for node in here:
        accepted, refusal = client.drain_node(node, reason, words, deadline)
        if not accepted:
            raise RuntimeError(f"Ray refuses to drain node {node}: {refusal}")
        print(f"{words}; Ray's node {node} is drained", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.nodes.spot_notice", description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="", help="Ray's head as HOST:PORT (default: the cluster of this node)")
    parser.add_argument("--endpoint", default=ENDPOINT, help="the instance metadata service (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two looks (%(default)s)")
    parser.add_argument("--node-id", default="", help="id of Ray's node (default: every node with this address)")
    options = parser.parse_args(words)
    from ray._private.services import canonicalize_bootstrap_address_or_die

    address = canonicalize_bootstrap_address_or_die(options.address or None)
    try:
        watch(
            Metadata(options.endpoint),
            lambda notice: drain_this_node(notice, address=address, node_id=options.node_id),
            interval=options.interval,
        )
    except NoMetadataError as error:
        print(f"{error}; not watching", file=sys.stderr)
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
