"""What a recipe costs beside another: core-seconds of all processes, each from an empty folder, one after the other.

    VOC_ROOT=... python -m tests.benchmarks.recipe_cost best voc_animals --folder FOLDER --set NAME=VALUE ...

The ratio is the first recipe's core-seconds / the second's. Arguments of --set go to both. FOLDER/RECIPE/runs is the
folder of runs. An interrupted recipe resumes there: its core-seconds are those of all attempts. A finished one is not
run again. agreement: both recipes have results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tests.architecture.sources import ROOT
from tests.benchmarks.rehearsal.processes import COMMAND, read_command, run_watched
from tuning.tables.digests import shipped_recipe
from wsss.pipeline.recipe import load_recipe
from wsss.stages.evaluate import Evaluate

BAR = 1.4


def run(name: str, folder: Path, settings: list[str]) -> tuple[float, float, dict[str, float]]:
    """Core-seconds and seconds of a recipe, and the mean IoU of each of its evaluations of maps and labels."""
    settings = [*settings, f"runtime.runs={folder / 'runs'}"]
    recipe = load_recipe(shipped_recipe(name), settings)
    if any(one.run_record() is None for one in recipe.instances):
        _attempt(name, folder, settings)
    seen = [read_command(path.parent) for path in sorted((folder / "watched").glob(f"*/{COMMAND}"))]
    records = {one.name: one.run_record() for one in recipe.instances if isinstance(one.stage, Evaluate)}
    scores = {
        name: record.metrics["mean_iou"] for name, record in records.items() if record and "mean_iou" in record.metrics
    }
    return sum(one.cpu_after(0.0) for one in seen), sum(one.ended - one.begun for one in seen), scores


def _attempt(name: str, folder: Path, settings: list[str]) -> None:
    """Run the recipe, or resume it, and write what was seen of it to a folder of its own."""
    attempt = folder / "watched" / f"{len(list((folder / 'watched').glob('*'))):03d}"
    attempt.mkdir(parents=True)
    command = [sys.executable, "-m", "wsss", "run", name, *(part for one in settings for part in ("--set", one))]
    output = folder / "output.txt"
    if run_watched(command, folder=ROOT, environment=os.environ, output=output, seen=attempt):
        raise SystemExit(f"{name} failed; see {output}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs=2, metavar="RECIPE")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    arguments = parser.parse_args()
    found = {name: run(name, arguments.folder / name, arguments.settings) for name in arguments.recipes}
    first, second = (found[name] for name in arguments.recipes)
    ratio, complete = first[0] / second[0], bool(first[2] and second[2])
    report = {
        "name": "recipe_cost",
        "ratio": ratio,
        "agreement": complete,
        "error": float(not complete),
        "checks": {"core-seconds of the first recipe / the second": {"value": ratio, "bar": BAR, "ok": ratio <= BAR}},
        "core_seconds": {name: one[0] for name, one in found.items()},
        "seconds": {name: one[1] for name, one in found.items()},
        "mean_iou": {name: one[2] for name, one in found.items()},
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
