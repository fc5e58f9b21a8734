"""The command line without one of its repairs: python -m tests.faults.without REPAIR run RECIPE ...

The controls of the faults run this on the head: a fault that passes without its repair tests nothing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def replacement() -> None:
    """The pool does not replace an actor that died: the run ends. Nor does it start slow shards twice."""
    from cluster.actors import pool, pool_work

    def raised(self: object, slot: object, run: object, error: BaseException) -> None:
        raise error

    pool_work.COPY_AFTER = float("inf")
    pool.ActorPool._replace = raised  # type: ignore[method-assign]


def resuming() -> None:
    """Finished shards are made again."""
    from cluster import ray_runtime

    def all_of_them(instance: Any, stage: Any) -> tuple[list[str], int]:
        shards = list(stage.shards(instance))
        return shards, len(shards)

    vars(ray_runtime)["pending_shards"] = all_of_them


def checkpoints() -> None:
    """A training starts without the checkpoints that it finds."""
    from cluster.ray_runtime import RayRuntime

    fit = RayRuntime.fit

    def fresh(self: Any, instance: Any, *arguments: Any, **options: Any) -> Any:
        shutil.rmtree(instance.path / "checkpoints", ignore_errors=True)
        return fit(self, instance, *arguments, **options)

    RayRuntime.fit = fresh  # type: ignore[method-assign]


def code_check() -> None:
    """Workers with other code are taken."""
    from cluster.actors import pool

    vars(pool)["require_same"] = lambda *arguments, **options: None


def lock() -> None:
    """Two drivers may work on one instance."""
    from wsss.pipeline import run

    @contextmanager
    def unlocked(*arguments: object, **options: object) -> Iterator[None]:
        yield

    vars(run)["locked"] = unlocked


def outbox() -> None:
    """Records that cannot be delivered are dropped."""
    from cluster.tracking.outbox import Outbox

    Outbox.put = lambda self, event: None  # type: ignore[method-assign]


def setting_aside() -> None:
    """A record that ends its process every time ends the run."""
    from cluster.actors import pool_work

    made = pool_work.PoolRun.__init__

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.may_set_aside = False

    pool_work.PoolRun.__init__ = init  # type: ignore[method-assign]


REPAIRS: dict[str, Callable[[], None]] = {
    one.__name__: one for one in (replacement, resuming, checkpoints, code_check, lock, outbox, setting_aside)
}


if __name__ == "__main__":
    from wsss.__main__ import main

    REPAIRS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
