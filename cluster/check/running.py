"""Asks all nodes of a running cluster: versions, GPU driver, open files, and whether they share the folder of runs."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from cluster.check.findings import Finding
from cluster.check.node import facts, node_faults, not_writable
from cluster.session.ask_nodes import ask_nodes, node_name
from cluster.session.ray_session import connect

_SECONDS = 120.0
"""For all nodes to answer a question; the first one on a node starts a Python process there."""


def check_running(address: str, *, runs: Path | None) -> list[Finding]:
    """Faults of the nodes of the cluster at `address`. Raises ValueError if none answers there."""
    opened = connect(address)
    try:
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        known, silent = _ask(nodes, facts)
        found = list(_silence(nodes, silent))
        for node, answer in known.items():
            found += node_faults(_named(answer, nodes[node]), gpus=nodes[node]["Resources"].get("GPU", 0.0))
        found += _differences({node_name(nodes[node]): answer for node, answer in known.items()}, here=facts())
        if runs is not None:
            found += _shared(list(known), nodes, runs)
        return found
    finally:
        if opened:
            ray.shutdown()


def _ask(nodes: Iterable[str], question: Callable[..., Any], *arguments: Any) -> tuple[dict[str, Any], list[str]]:
    """Node -> its answer, and the nodes that did not answer in time."""
    return ask_nodes(nodes, question, *arguments, seconds=_SECONDS)


def _named(answer: dict[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    return {**answer, "host": node_name(node)}


def _silence(nodes: Mapping[str, Any], silent: Sequence[str]) -> Iterator[Finding]:
    for node in silent:
        yield Finding(
            node_name(nodes[node]),
            f"does not run a task within {_SECONDS:g} s: its disk or memory may be full, the package may be missing "
            "there, or its ports closed (cluster/README.md); its log is in session_latest/logs/raylet.out",
        )


def _differences(answers: Mapping[str, Mapping[str, Any]], *, here: Mapping[str, Any]) -> Iterator[Finding]:
    """Versions that are not the same everywhere; both sides are named."""
    everybody = {f"this process on {here['host']}": here, **answers}
    for package in here["versions"]:
        holders: dict[str, list[str]] = {}
        for name, answer in everybody.items():
            holders.setdefault(answer["versions"].get(package) or "not installed", []).append(name)
        if len(holders) > 1:
            sides = "\n".join(f"{version}: {', '.join(names)}" for version, names in sorted(holders.items()))
            yield Finding(
                package,
                f"differs between the nodes; results would depend on the node. Install the same version everywhere: "
                f"`ray up` installs it anew\n{sides}",
            )


def _shared(nodes: Sequence[str], every: Mapping[str, Any], runs: Path) -> Iterator[Finding]:
    """Every node writes a file into one folder below `runs`, which must exist; then every node reads all of them."""
    probe = runs.absolute() / f".probe-{uuid.uuid4().hex}"
    written: dict[str, Any] = {}
    try:
        for node in nodes:  # the first one that answers makes the folder, the others must find it
            first = next(iter(written), node)
            answers, silent = _ask([node], _write_probe, str(probe), node, first == node)
            written |= answers
            yield from _silence(every, silent)
            if error := answers.get(node):
                alone = first == node
                text = not_writable(runs, error) if alone else _not_shared(runs, error, node_name(every[first]))
                yield Finding(node_name(every[node]), text)
                if alone:
                    return
        wrote = [node for node, error in written.items() if not error]
        seen, _ = _ask(wrote, _read_probe, str(probe))
        for node, files in seen.items():
            missing = [node_name(every[other]) for other in wrote if other not in files]
            if missing:
                yield Finding(
                    node_name(every[node]),
                    f"does not see in {runs} what these nodes wrote: {', '.join(missing)}. The file system may show "
                    "new files late: mount it without attribute caching (NFS: actimeo=1 or less)",
                )
    finally:
        _ask(nodes[:1], _remove_probe, str(probe))


def _not_shared(runs: Path, error: str, first: str) -> str:
    return (
        f"does not share {runs} with {first} ({error}); all nodes need the same file system there: "
        "set runtime.runs to a folder of it, and mount it on every node"
    )


def _write_probe(folder: str, node: str, first: bool) -> str:
    """Write this node's file; an error in words, or nothing."""
    try:
        if first:
            Path(folder).mkdir()  # not its parents: that would hide a missing mount
        elif not Path(folder).is_dir():
            return "the folder that another node has made is not there"
        (Path(folder) / node).write_text(json.dumps(facts()["host"]))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _read_probe(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _remove_probe(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
