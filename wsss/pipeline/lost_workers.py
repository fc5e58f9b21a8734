"""What a run lost and did again, for its record: counts, and a line for each worker."""

from __future__ import annotations

from collections.abc import Sequence

from wsss.contract.failure import Failure

MAX_LINES = 50
"""Lost workers that a record names; all of them are counted."""


def count_losses(restarts: Sequence[Failure]) -> dict[str, float]:
    """Counts of a run's losses; empty if nothing was lost."""
    found = {
        "actors": sum(one.who.startswith("actor") for one in restarts),
        "ranks": sum(one.who.startswith("rank") for one in restarts),
        "nodes": len({one.host or one.message for one in restarts if "node died" in one.cause}),
        "preemptions": sum("preempted" in one.cause for one in restarts),
        "shards_redone": sum(bool(one.shard) and one.redone[:7] not in ("", "nothing") for one in restarts),
        "steps_redone": sum(one.steps_redone for one in restarts),
        "records_set_aside": sum(bool(one.set_aside) for one in restarts),
    }
    return {name: float(count) for name, count in found.items() if count}


def loss_lines(restarts: Sequence[Failure]) -> list[str]:
    """For each lost worker: which, where, at what and why, and what was done again."""
    lines = []
    for one in restarts[:MAX_LINES]:
        where = f" on {one.host}" if one.host else ""
        redone = f"; {one.redone}" if one.redone else ""
        lines.append(f"{one.place()}{where}: {' '.join(one.message.split())}{redone}")
    return lines
