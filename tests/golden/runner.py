"""Runs the golden recipes with whatever package stands first on the path, and says what became of every case.

Run by `packages.py` in a process of its own, as a file: `python runner.py RECIPE RUNS REPORT [NAME...]`. It knows two
layouts of the package, the one of commit ee5a0ff and the one that followed. Trainings of one rank run in this process,
one after the other: a process each, as `LocalRuntime` has it, would spend most of the time on imports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

HERE = Path(__file__).resolve().parent
FINISHED = HERE / "finished.toml"
NAMES_OF_RANKS = ("world_size", "num_ranks")
"""What the setting has been called that says how many processes train together."""
Facts = dict[str, Any]


def first_of(*names: str) -> Any:
    """The attribute that `module:attribute` names; of several, the first that there is."""
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"none of {', '.join(names)} is in this package; add where it stands now to {__file__}")


def num_ranks(stage: Any) -> int:
    """How many processes train together."""
    return max(getattr(stage, name, 1) for name in NAMES_OF_RANKS)


class Silent:
    """Stands in for a reporter and for a tracker: takes every call and says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *positional, **named: None


def make_runtime(settings: Any) -> Any:
    """A `LocalRuntime` whose trainings of one rank run in this process."""
    local_runtime = first_of("cluster.local:LocalRuntime")
    run_rank = first_of("cluster.training.engine:run_rank", "cluster.engine:run_rank")
    place_of_rank = first_of("cluster.training.rank_process:RankPlace", "cluster.rank_process:RankPlace")
    read_outcome = first_of("cluster.training.fit_files:read_outcome", "cluster.fit_files:read_outcome")
    free_port = first_of("cluster.local:free_port")
    address = f"127.0.0.1:{free_port()}"

    class OneProcess(local_runtime):  # type: ignore[misc, valid-type]
        def fit(self, instance: Any, stage: Any, *others: Any, **named: Any) -> Any:
            if num_ranks(stage) > 1:
                return super().fit(instance, stage, *others, **named)
            run_rank(instance, place_of_rank(0, 1, 0, settings.threads, 0, address))
            return read_outcome(instance.path)

    return OneProcess(settings)


def run_instances(recipe: Any, wanted: set[str]) -> dict[str, str]:
    """Run instances one by one; name -> what went wrong, for those that failed or stand on one that did."""
    run_recipe = first_of("wsss.pipeline.run:run_recipe", "wsss.pipeline:run_recipe")
    runtime, failed = make_runtime(recipe.runtime), dict[str, str]()
    for instance in recipe.instances:
        if instance.name not in wanted:
            continue
        if below := [upstream.name for upstream in instance.inputs.values() if upstream.name in failed]:
            failed[instance.name] = f"{below[0]}, which it reads, failed"
            continue
        span = {"first": instance.name, "last": instance.name}
        try:
            run_recipe(recipe, runtime=runtime, tracker=Silent(), reporter=Silent(), **span)
        except Exception:
            failed[instance.name] = traceback.format_exc()
    runtime.close()
    return failed


def lineage(instance: Any) -> list[Any]:
    """The instance and all that it is made of."""
    found = [instance]
    for one in found:
        found += [upstream for upstream in one.inputs.values() if all(upstream is not known for known in found)]
    return found


def tars_of(instance: Any) -> dict[str, str]:
    """Shard -> its tar, of a case that makes a layer. Tars that lie elsewhere are copied into the instance's folder."""
    if not hasattr(instance.stage, "record_kind"):
        return {}
    paths: dict[str, Path] = {}
    for shard in instance.layer.shards():
        paths[shard] = instance.layer.tar_path(shard)
        if not paths[shard].exists():
            paths[shard] = instance.path / f"copied-{shard}.tar"
            with instance.layer.open_tar(shard) as tar:
                paths[shard].write_bytes(tar.read())
    return {shard: str(path) for shard, path in paths.items()}


def facts_of(instance: Any, failed: dict[str, str]) -> Facts:
    """What the comparison needs to know of a case."""
    unread_settings = first_of(
        "wsss.contract.settings:inactive_settings",
        "wsss.contract.settings:unread_settings",
        "wsss.settings:unread_settings",
    )
    stage = instance.stage
    return {
        "kind": stage.kind,
        "revisions": revisions_behind(instance),
        "settings": {field.name: getattr(stage, field.name) for field in fields(stage)},
        # A setting that is off by its own value has that value all the same: the case covers it.
        "unread": sorted(name for name, why in unread_settings(stage).items() if not why.startswith(f"{name} other")),
        "path": str(instance.path),
        "tars": {} if failed.get(instance.name) else tars_of(instance),
        "failed": failed.get(instance.name, ""),
    }


def revisions_behind(instance: Any) -> dict[str, int]:
    """Kind -> the latest revision of its instances behind a case; older packages have one for all settings of a
    kind."""
    found: dict[str, int] = {}
    for stage in (one.stage for one in lineage(instance)):
        revision: int = stage.own_revision() if hasattr(stage, "own_revision") else stage.revision
        found[stage.kind] = max(revision, found.get(stage.kind, 0))
    return found


def literals(annotation: Any) -> list[Any]:
    """All values that a type made of `Literal` or `bool` allows; empty for other types."""
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in literals(part)]


def choices() -> dict[str, dict[str, list[Any]]]:
    """Kind of stage -> setting -> what may be chosen, of every setting with a fixed list of choices."""
    stages = first_of("wsss.stages.registry:STAGES")
    found: dict[str, dict[str, list[Any]]] = {}
    for kind, stage in stages.items():
        hints = get_type_hints(stage)
        of_kind = {field.name: literals(hints[field.name]) for field in fields(stage)}
        found[kind] = {name: values for name, values in of_kind.items() if values}
    return found


def versions() -> dict[str, str]:
    """What bytes may depend on besides the package."""
    import cv2
    import numpy
    import PIL
    import torch

    with open("/proc/cpuinfo") as file:
        details = dict(line.split(":", 1) for line in file.read().partition("\n\n")[0].splitlines() if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in details.items()}
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": f"{cpu.get('vendor_id', 'unknown')} family {cpu.get('cpu family', 'unknown')}",
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
    }


def main(path: Path, runs: Path, report: Path, names: list[str]) -> None:
    load_recipe = first_of("wsss.pipeline.recipe:load_recipe", "wsss.recipe:load_recipe")
    finished = load_recipe(FINISHED, [f"runtime.runs={runs}"])
    failed = run_instances(finished, {instance.name for instance in finished.instances})
    if failed:
        raise RuntimeError("".join(failed.values()))
    os.environ["GOLDEN_FINISHED"] = str(finished.instances[0].path)
    recipe = load_recipe(path, [f"runtime.runs={runs}"])
    # The number of ranks is not part of a fingerprint: in one folder, they would find what one rank has trained.
    of_many = load_recipe(path, [f"runtime.runs={runs / 'of_many_ranks'}"])
    chosen = [recipe.instance(name) for name in names] or list(recipe.instances)
    many = {instance.name for instance in chosen if num_ranks(instance.stage) > 1}
    cases: dict[str, Facts] = {}
    for here, of_here in ((recipe, {i.name for i in chosen} - many), (of_many, many)):
        wanted = {one.name for name in of_here for one in lineage(here.instance(name))}
        failed = run_instances(here, wanted)
        cases = {i.name: facts_of(i, failed) for i in here.instances if i.name in wanted} | cases
    package = str(Path(importlib.import_module("wsss").__path__[0]).parent)
    details = {"package": package, "versions": versions(), "choices": choices(), "cases": cases}
    report.write_text(json.dumps(details, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
