"""Ray's notice that a node will be taken away, as a training rank gets it: the node is being drained, with a deadline.

Ray Train polls for draining nodes and informs every rank. Its own `get_preemption_info` waits for all ranks at every
call; the engine adds up the ranks' answers anyway, so each rank reads only its own notice.
"""

from __future__ import annotations

from ray.train.v2._internal.execution.context import get_train_context


def drain_notice() -> str:
    """Why the ranks will lose a node soon; "" if no node of theirs is being drained."""
    info = getattr(get_train_context().preemption_context, "preemption_info", None)
    if info is None:
        return ""
    ranks = ", ".join(str(rank) for rank in info.preempted_ranks)
    return f"the node of rank {ranks} will be taken away"
