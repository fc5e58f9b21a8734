"""Running the tiny recipe in this process, or as a driver that can be killed: python -m tests.pipeline.chain."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cluster import shard_work
from cluster.local import LocalRuntime
from shards.layer import Layer, ManifestEntry
from shards.records import Missing, Record, RunRecord
from shards.writer import write_shard
from wsss.contract.fit import Fit, weights_path
from wsss.contract.runtime import PipelineRecord, Tracker
from wsss.contract.stage import Instance, Map
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.run import RunSummary, run_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TINY = RECIPES / "tiny.toml"


class NoTracker(Tracker):
    """Delivers nothing, and remembers which instances were reported."""

    def __init__(self) -> None:
        self.reported: list[str] = []

    def stage_finished(self, pipeline: PipelineRecord, record: RunRecord) -> None:
        self.reported.append(record.instance)


def tiny(runs: Path, *overrides: str, path: Path = TINY) -> Recipe:
    return load_recipe(path, [f"runtime.runs={runs}", *overrides])


def run(recipe: Recipe, first: str | None = None, last: str | None = None) -> RunSummary:
    runtime = LocalRuntime(recipe.runtime)
    reporter = Reporter(quiet=True)
    try:
        return run_recipe(recipe, runtime=runtime, tracker=NoTracker(), reporter=reporter, first=first, last=last)
    finally:
        runtime.close()


def layers(recipe: Recipe) -> list[str]:
    """Names of the instances that write layers."""
    return [instance.name for instance in recipe.instances if isinstance(instance.stage, Map)]


def files(instance: Instance) -> dict[str, bytes]:
    """Name -> bytes of everything of a layer that must not depend on how it came about."""
    return {path.name: path.read_bytes() for path in sorted(instance.path.iterdir()) if path.suffix == ".tar"} | {
        name: (instance.path / name).read_bytes()
        for name in ["index.json", *(f"{shard}.json" for shard in instance.layer.shards())]
    }


def copy_upstream(instance: Instance, runs: Path) -> None:
    """Copy all that an instance reads, directly or not, into another folder of runs."""
    for upstream in instance.inputs.values():
        copy_upstream(upstream, runs)
        target = runs / "store" / upstream.path.name
        if not target.exists():
            shutil.copytree(upstream.path, target)


def pretend_trained(instance: Instance) -> None:
    """Leave an untrained network where a training would have left its weights."""
    assert isinstance(instance.stage, Fit)
    network = instance.stage.model(instance, pretrained=False)
    instance.path.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), weights_path(instance))
    nothing: dict[str, object] = {"settings": {}, "upstream": {}, "git_commit": "", "metrics": {}}
    names = {"recipe": "", "instance": instance.name, "kind": instance.stage.kind, "fingerprint": instance.fingerprint}
    instance.write_run_record(RunRecord(**names, **nothing))  # type: ignore[arg-type]


WriteShard = Callable[..., ManifestEntry]


def breaking(shard: str, stop: Callable[[], None]) -> WriteShard:
    """`write_shard`, with a stop after the second record of one shard."""

    def write(layer: Layer, name: str, records: Iterable[Record | Missing], **given: Any) -> ManifestEntry:
        return write_shard(layer, name, interrupted(iter(records)) if name == shard else records, **given)

    def interrupted(records: Iterator[Record | Missing]) -> Iterator[Record | Missing]:
        yield next(records)
        yield next(records)
        stop()

    return write


def main(runs: str, first: str, last: str, die_in: str = "") -> None:
    if die_in:
        shard_work.write_shard = breaking(die_in, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run(tiny(Path(runs)), first, last)


if __name__ == "__main__":
    main(*sys.argv[1:])
