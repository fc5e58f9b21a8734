"""`python -m tuning.systems`: run the twins of the published systems one after the other, and declare their table.

    VOC_ROOT=.../voc_animals python -m tuning.systems --runs RUNS --weights FOLDER [--seeds 1 2] [--only sec ...]
    python -m tuning.systems --runs RUNS --weights FOLDER --declare

The first command is resumed by giving it again: `wsss run` resumes where it stopped, and what is done is reused. No
system is started after `--hours`. All twins see the same images with the same weights for about the same number of
steps (tuning/twins.py); the ceiling learns the masks of all these images until it has converged. The second command
writes tuning/tables/declared/systems.toml with the rows of the systems whose results of seed 1 are all in RUNS, a
second seed where there are results of seed 2, and the rows and second seeds that it already has;
`make tables RUNS=RUNS WEIGHTS=FOLDER` then fills <!-- table: systems --> in tuning/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.files import write_bytes
from tuning.tables.declaration import DECLARED, read_declarations
from tuning.tables.digests import recipe_without_data, shipped_recipe
from tuning.twins import SYSTEMS
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe
from wsss.stages.evaluate import Evaluate

WEIGHTS = "mobilenetv2_100.safetensors"
CEILING = "ceiling"
"""The recipe that learns from all masks, beside the twins; it is trained once."""
NAMES = (*SYSTEMS, CEILING)
ARGUMENTS = ("defaults.pad_type=same", "defaults.mean=[0.5,0.5,0.5]", "defaults.std=[0.5,0.5,0.5]")
"""What the weights need, for every twin."""
_LABELS = ("evaluate_labels_crf", "evaluate_first")
"""Instances that measure the labels a segmenter is trained on, or could be."""
_SECOND = {"labels": "second_labels", "segmentation": "second"}
"""Source -> the same of the second seed."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a segmenter of a twin."""

    system: str
    title: str
    published: str
    """The published score of the full system on val, and its supervision."""
    segmenter: str
    """The instance that measures its segmentations of val."""


ROWS = (
    Row("irnet", "IRNet", "63.5", "evaluate"),
    Row("affinitynet", "AffinityNet", "58.4, not checked", "evaluate"),
    Row("ficklenet", "FickleNet", "61.2", "evaluate"),
    Row("dsrg", "DSRG", "59.0", "evaluate"),
    Row("sec", "SEC", "50.7", "evaluate"),
    Row("ficklenet_semi", "FickleNet, masks of 13.8 %", "65.8", "evaluate"),
    Row("self_correcting", "self-correcting: none, masks of 13.8 %", "80.34", "evaluate_uncorrected"),
    Row("self_correcting", "self-correcting: linear", "81.35", "evaluate_linear"),
    Row("self_correcting", "self-correcting: convolutional", "82.33", "evaluate_conv"),
    Row("self_correcting", "self-correcting: EM-fixed", "not in the slides", "evaluate_em_fixed"),
    Row(CEILING, "masks of all images, to convergence (long)", "", "evaluate"),
)
"""Weak systems in the published order, then those with masks, and the ceiling."""


def overrides(weights: Path, runs: Path, seed: int) -> list[str]:
    """The --set arguments of every run."""
    return [f"defaults.pretrained={weights / WEIGHTS}", *ARGUMENTS, f"runtime.runs={runs}", f"recipe.seed={seed}"]


def run_all(systems: Sequence[str], *, weights: Path, runs: Path, seeds: Sequence[int], hours: float) -> list[str]:
    """Run the twins, every system once before any second seed; returns what failed or was not started."""
    started, left = time.monotonic(), []
    for number, seed in enumerate(seeds):
        for system in systems:
            if number and system == CEILING:
                continue
            what = f"{system}, seed {seed}"
            if time.monotonic() - started > hours * 3600:
                left.append(f"{what}: not started, {hours:g} hours have passed")
                continue
            print(f"== {what}", flush=True)
            settings = [part for one in overrides(weights, runs, seed) for part in ("--set", one)]
            path = shipped_recipe(f"voc_animals_{system}")
            if subprocess.run([sys.executable, "-m", "wsss", "run", str(path), *settings], check=False).returncode:
                left.append(f"{what}: failed or stopped; give the command again to resume")
    return left


def measured(system: str, *, weights: Path, runs: Path, seed: int = 1) -> bool:
    """True if all evaluations of a twin with this seed are in the folder of runs."""
    recipe = loaded(system, weights=weights, runs=runs, seed=seed)
    return all(i.run_record() is not None for i in recipe.instances if isinstance(i.stage, Evaluate))


def loaded(system: str, *, weights: Path, runs: Path, seed: int) -> Recipe:
    """The recipe of a twin; ends the program if the data are not there."""
    try:
        return load_recipe(shipped_recipe(f"voc_animals_{system}"), overrides(weights, runs, seed))
    except RecipeError as error:
        raise SystemExit(f"systems: {error}") from None


def declare(complete: Collection[str], twice: Collection[str], *, declared: Path) -> None:
    """Write the declaration, with these systems and second seeds and those that it already has."""
    file = declared / "systems.toml"
    rows = read_declarations(declared)["systems"].rows if file.exists() else ()
    there, again = ({row.text[0] for row in rows if name in row.sources} for name in ("segmentation", "second"))
    kept = [row for row in ROWS if row.system in complete or row.title in there]
    write_bytes(file, declaration(kept, twice={*twice, *(row.system for row in ROWS if row.title in again)}).encode())


def declaration(rows: Sequence[Row], *, twice: Collection[str] = ()) -> str:
    """The file tuning/tables/declared/systems.toml with these rows. `twice`: the systems that have a second seed."""
    whole = next((row.title for row in rows if row.system == CEILING), "")
    columns = [
        '{ title = "system" }',
        '{ title = "published, full system, val" }',
        *(
            f'{{ title = "{title}", metric = "{split}.{metric}", source = "{source}", show = "{show}" }}'
            for title, source, split, metric, show in (
                ("maps, train", "maps", "train", "mean_iou", "percent"),
                ("maps, val", "maps", "val", "mean_iou", "percent"),
                ("labels, train", "labels", "train", "mean_iou", "percent"),
                ("labels, val", "labels", "val", "mean_iou", "percent"),
                ("labels, val, second seed", "second_labels", "val", "mean_iou", "percent"),
                ("segmentation, val, no labels", "segmentation", "val", "mean_iou", "interval"),
                ("second seed", "second", "val", "mean_iou", "percent"),
                ("of the ceiling", "segmentation", "val", "mean_iou", "share"),
            )
            if not (title.endswith("second seed") and not twice) and (show != "share" or whole)
        ),
    ]
    lines = [
        "# The twins of the published systems side by side; written by python -m tuning.systems --declare.",
        "",
        'page = "tuning/README.md"',
        f'recipe = "voc_animals_{rows[0].system}"',
        f"set = {json.dumps(list(ARGUMENTS))}",
        f'weights = "{WEIGHTS}"',
        'command = "python -m tuning.systems"',
        "columns = [",
        *(f"  {column}," for column in columns),
        "]",
    ]
    for row in rows:
        lines += ["", "[[rows]]", f"text = {json.dumps([row.title, row.published])}"]
        if whole and row.system != CEILING:
            lines.append(f"of = {json.dumps(whole)}")
        for name, instance in sources(row):
            lines.append(f'sources.{name} = "voc_animals_{row.system}:{instance}"')
            if row.system in twice and name in _SECOND:
                measurement = f'instance = "voc_animals_{row.system}:{instance}", set = ["recipe.seed=2"]'
                lines.append(f"sources.{_SECOND[name]} = {{ {measurement} }}")
    return "\n".join(lines) + "\n"


def sources(row: Row) -> Iterator[tuple[str, str]]:
    """Name of a source, as in the columns -> instance of the twin that measures it."""
    recipe = recipe_without_data(f"voc_animals_{row.system}", ())
    there = {instance.name for instance in recipe.instances}
    if "evaluate_cam" in there:
        yield "maps", "evaluate_cam"
    yield from (("labels", name) for name in _LABELS if name in there)
    yield "segmentation", row.segmenter


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; give a number of hours above 0")
    return hours


def _seed(text: str) -> int:
    if (seed := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; give a whole number from 0")
    return seed


def main(arguments: Sequence[str] | None = None, *, declared: Path = DECLARED) -> int:
    """Run the twins or declare their table; returns 0, or 1 if something is left to do."""
    parser = argparse.ArgumentParser(
        prog="python -m tuning.systems",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of runs")
    parser.add_argument("--weights", type=Path, required=True, help=f"folder with {WEIGHTS}")
    parser.add_argument("--hours", type=_hours, default=12.0, help="start no system after these hours (default: 12)")
    parser.add_argument("--seeds", type=_seed, nargs="+", default=[1], help="seeds, the first for all systems first")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="only these systems")
    parser.add_argument("--declare", action="store_true", help="write the declaration of the table, run nothing")
    given = parser.parse_args(arguments)
    if not (given.weights / WEIGHTS).is_file():
        parser.error(f"--weights {given.weights}: there is no {WEIGHTS}")
    if given.declare and given.seeds != [1]:
        parser.error("--declare takes no --seeds: the table has seed 1, and seed 2 where it is measured")
    runs, weights = given.runs.absolute(), given.weights.absolute()
    for system in given.only:
        loaded(system, weights=weights, runs=runs, seed=given.seeds[0])  # what is wrong for one is so for all
    if not given.declare:
        left = run_all(given.only, weights=weights, runs=runs, seeds=given.seeds, hours=given.hours)
    else:
        complete = {system for system in given.only if measured(system, weights=weights, runs=runs)}
        left = [f"{system}: not measured in {runs}" for system in given.only if system not in complete]
        if complete:
            seconds = complete - {CEILING}
            twice = {name for name in seconds if measured(name, weights=weights, runs=runs, seed=2)}
            declare(complete, twice, declared=declared)
            print(f"written: {declared / 'systems.toml'}; next: make tables RUNS={runs} WEIGHTS={weights}")
    for line in left:
        print(f"systems: {line}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
