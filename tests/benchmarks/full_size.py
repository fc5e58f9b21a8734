"""Every stage of LID's recipe at LID's number of images: what it costs, and how much of that is ours.

    .venv/bin/python -m tests.benchmarks.full_size --folder FOLDER                 # 456,567 images, 3 hours on 2 cores
    .venv/bin/python -m tests.benchmarks.full_size --folder FOLDER --share 0.01    # 4,566 images, a quarter of an hour
    .venv/bin/python -m tests.benchmarks.full_size --folder FOLDER --than SMALLER  # also compares with a smaller run

The data set is drawn in FOLDER (tests/benchmarks/rehearsal); the recipe is tuning/recipes/rehearsal.toml. Its stages
run one after the other, each by a `wsss run` of its own, so the benchmark may be stopped (Ctrl-C) and started again.
Map stages of at least ten shards are stopped by SIGTERM when 90 % of the shards are there, and resumed. Then each Map
stage runs again with workers that compute nothing (tests/benchmarks/rehearsal/ready_stages.py): our own share.

Core-seconds are CPU seconds of all processes of a command, those before the first record left out (start-up). They are
divided into parts by looking at the stacks of all Python threads (tests/benchmarks/rehearsal/watch.py).

ratio: the required core-milliseconds per training image ÷ those measured. agreement: every Map stage of train was given
all training images and left out only those whose classes are unknown (349,000 of 456,567 are known) or which show only
the dropped class *person*; every image of test is in the submission.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.architecture.sources import ROOT
from tests.benchmarks.rehearsal.drawn_lid import NUM_TRAIN, DrawnLid, draw_lid
from tests.benchmarks.rehearsal.processes import run_watched
from tests.benchmarks.rehearsal.ready_stages import has_ready
from tests.benchmarks.rehearsal.rows import PARTS, Attempt, Row, read_attempts, row_of
from tuning.tables.digests import shipped_recipe
from wsss.contract.stage import Instance, Map
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.plan.hardware import cluster_of
from wsss.plan.plan import make_plan

RECIPE = "rehearsal"
SITE = ROOT / "tests" / "benchmarks" / "rehearsal" / "site"
STOPPED_AT, FEWEST_SHARDS = 0.9, 10
IMAGE_BAR, OWN_BAR, DRIVER_BAR, RESUME_BAR, EVALUATE_BAR = 80.0, 1.0, 1 << 30, 10.0, 180.0
GROWTH_BAR, PLAN_BAR = 1.1, 0.15
LABELLED = 349_000
"""Training images with a label, of NUM_TRAIN."""
UNLABELLED = "classes are unknown"
"""In the reasons why an image without a label has no record."""
MANY = 4_000
"""Records of a stage over which its fixed costs are spread before it is compared with a bar per record."""
COMPUTING = frozenset({"decode", "views and augmentation", "network", "operation"})
"""Parts of a row that are not reading, joining, encoding, writing or Ray."""


class Rehearsal:
    """The recipe on the drawn data set of a folder."""

    def __init__(self, folder: Path, share: float) -> None:
        self.folder, self.share = folder, share
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.drawn: DrawnLid = draw_lid(folder, share)
        except ValueError as error:  # another data set in the folder
            raise SystemExit(str(error)) from error
        os.environ.update(self.drawn.environment)
        self.recipe: Recipe = load_recipe(shipped_recipe(RECIPE), [f"runtime.runs={folder / 'runs'}"])

    def rows(self) -> list[Row]:
        """One row per stage; those of finished stages are read from the folder."""
        return [self._row(instance, "rows", self._run) for instance in self.recipe.instances]

    def own_rows(self) -> list[Row]:
        """One row per Map stage that computes something, without its computing."""
        chosen = [one for one in self.recipe.instances if has_ready(one)]
        return [self._row(instance, "own", self._run_own) for instance in chosen]

    def _row(self, instance: Instance, kind: str, run: Callable[[Instance, Path], Sequence[Attempt]]) -> Row:
        path = self.folder / kind / f"{instance.name}.json"
        if path.exists():
            return Row(**json.loads(path.read_text()))
        print(f"{instance.name} ({kind}) …", file=sys.stderr, flush=True)
        watched = self.folder / "watched" / kind / instance.name
        row = row_of(instance, run(instance, watched))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(row), indent=1))
        print(f"  {row.core_ms:.2f} core-ms per record", file=sys.stderr, flush=True)
        return row

    def _run(self, instance: Instance, watched: Path) -> list[Attempt]:
        runs = f"runtime.runs={self.folder / 'runs'}"
        command = [sys.executable, "-m", "wsss", "run", RECIPE, "--set", runs]
        command += ["--from", instance.name, "--to", instance.name]
        if (stop := self._stop_at(instance)) is not None:
            self._attempt(command, watched, stop)
        if instance.run_record() is not None and not read_attempts(watched):
            raise SystemExit(f"{instance.name} was made without being measured; remove {instance.path}")
        if instance.run_record() is None:
            self._attempt(command, watched)
        if instance.run_record() is None:
            raise SystemExit(f"{instance.name} failed; see {self.folder / 'output.txt'}")
        return read_attempts(watched)

    def _run_own(self, instance: Instance, watched: Path) -> list[Attempt]:
        module = "tests.benchmarks.rehearsal.own_share"
        places = [str(self.folder / "runs"), instance.name, str(self.folder / "own_layers")]
        shutil.rmtree(watched, ignore_errors=True)  # of a benchmark that was stopped: this stage begins again
        if self._attempt([sys.executable, "-m", module, *places], watched):
            raise SystemExit(f"{instance.name} failed; see {self.folder / 'output.txt'}")
        return read_attempts(watched)

    def _attempt(self, command: list[str], watched: Path, stop: Callable[[], bool] = lambda: False) -> int:
        """Run a command and write what was seen of it to a folder of its own; returns its exit code."""
        folder = watched / f"{len(list(watched.glob('*'))):03d}"
        folder.mkdir(parents=True)
        path = os.pathsep.join([str(SITE), str(ROOT)])
        environment = os.environ | {"PYTHONPATH": path, "WSSS_WATCH": str(folder), "RAY_worker_niceness": "0"}
        output = self.folder / "output.txt"
        return run_watched(command, folder=ROOT, environment=environment, output=output, seen=folder, stop=stop)

    def _stop_at(self, instance: Instance) -> Callable[[], bool] | None:
        """Whether 90 % of the shards are there; None if the stage is not to be stopped."""
        if not isinstance(instance.stage, Map) or instance.path.exists():
            return None
        shards = instance.stage.shards(instance)
        if len(shards) < FEWEST_SHARDS:
            return None

        def reached() -> bool:
            done = sum(1 for _ in instance.path.glob("*-*.json")) if instance.path.exists() else 0
            return done >= STOPPED_AT * len(shards)

        return reached

    def predicted(self, smaller: Rehearsal) -> float:
        """Core-seconds that `wsss plan --measured` of a smaller run plans for this one."""
        numbers = self.drawn.numbers
        images = f"train={numbers.train},val={numbers.val},test={numbers.test}"
        one = cluster_of(nodes=1, gpus_per_node=0, gpu=None, cores_per_node=2, network_gbps=100.0, storage_gbps=20.0)
        runs = [f"runtime.runs={self.folder / 'none'}"]
        plan = make_plan(shipped_recipe(RECIPE), runs, cluster=one, images=images, measured=smaller.folder / "runs")
        return sum(usage.core_seconds for usage in plan.used)


def handled_all(rows: Sequence[Row], images: int) -> bool:
    """Whether every Map stage of the training images was given all of them, and handled those with a label."""
    for row in rows:
        if row.instance in ("make_cams", "make_seeds", "make_scores", "make_pseudo_labels"):
            unlabelled = sum(number for reason, number in row.left_out.items() if UNLABELLED in reason)
            if row.records != images or row.records - unlabelled < LABELLED / NUM_TRAIN * images:
                return False
    return True


def core_ms(rows: Sequence[Row], images: int) -> float:
    """Core-milliseconds per training image, over all stages."""
    return 1000 * sum(row.total for row in rows) / images


def own_ms(row: Row) -> float:
    """Core-milliseconds per record of what is not computing."""
    own = sum(seconds for part, seconds in row.core_seconds.items() if part not in COMPUTING)
    return 1000 * own / max(row.records, 1)


def table(rows: Sequence[Row], own: dict[str, float]) -> str:
    """The rows as Markdown."""
    titles = ["stage", "records", "made", "core-ms", *PARTS, "own share", "waiting", "s", "start s", "resume s"]
    titles += ["driver MB", "worker MB", "MB on disk", "files"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for row in rows:
        per = {part: 1000 * seconds / max(row.records, 1) for part, seconds in row.core_seconds.items()}
        cells = [row.instance, f"{row.records:,}", f"{row.made:,}", f"{row.core_ms:.2f}"]
        cells += [f"{per[part]:.2f}" for part in PARTS]
        cells += [f"{own[row.instance]:.2f}" if row.instance in own else "", f"{1000 * row.waiting / row.records:.2f}"]
        cells += [f"{row.seconds:.0f}", f"{row.start:.1f}", f"{row.resume:.1f}" if row.resume else ""]
        cells += [f"{size / 1e6:.0f}" for size in (row.driver_bytes, row.worker_bytes, row.disk_bytes)]
        lines.append("| " + " | ".join([*cells, f"{row.files:,}"]) + " |")
    return "\n".join(lines)


def checks_of(rows: Sequence[Row], own: dict[str, float], images: int) -> dict[str, dict[str, Any]]:
    by_name = {row.instance: row for row in rows}
    shares = [own[row.instance] for row in rows if row.instance in own and row.records >= MANY]
    resumed = [row.resume for row in rows if row.resume and not row.kind.startswith("train_")]
    upper = {
        "core-ms per training image, all stages": ([core_ms(rows, images)], IMAGE_BAR),
        "own share of a Map stage, core-ms per record": (shares, OWN_BAR),
        "driver's peak memory, bytes": ([row.driver_bytes for row in rows], DRIVER_BAR),
        "seconds to resume at 90 %": (resumed, RESUME_BAR),
        "evaluate, seconds": ([by_name["evaluate"].stage_seconds], EVALUATE_BAR),
    }
    found = {what: (max(values), bar) for what, (values, bar) in upper.items() if values}
    for what in upper.keys() - found.keys():
        print(f"NOT RUN: {what}: no stage is large enough", file=sys.stderr)
    return {what: {"value": value, "bar": bar, "ok": value <= bar} for what, (value, bar) in found.items()}


def compared(whole: Rehearsal, rows: Sequence[Row], smaller: Path, share: float) -> dict[str, dict[str, Any]]:
    """Growth of the cost per image, and what the smaller run predicted."""
    less = Rehearsal(smaller, share)
    per_image = core_ms(rows, whole.drawn.numbers.train)
    growth = per_image / core_ms(less.rows(), less.drawn.numbers.train)
    os.environ.update(whole.drawn.environment)
    wrong = abs(whole.predicted(less) / sum(row.total for row in rows) - 1)
    return {
        f"core-ms per image ÷ those of {less.drawn.numbers.train:,} images": {
            "value": growth,
            "bar": GROWTH_BAR,
            "ok": growth <= GROWTH_BAR,
        },
        "wsss plan --measured of the smaller run, relative error": {
            "value": wrong,
            "bar": PLAN_BAR,
            "ok": wrong <= PLAN_BAR,
        },
    }


def summary(rows: Sequence[Row], own: dict[str, float]) -> str:
    """The main columns for a terminal of 80 columns; times in seconds, memory of the driver."""
    lines = [f"{'stage':20}{'records':>10}{'core-ms':>9}{'own':>7}{'time':>7}{'resume':>8}{'memory':>9}"]
    for row in rows:
        share = f"{own[row.instance]:.2f}" if row.instance in own else "-"
        resume = f"{row.resume:.1f} s" if row.resume else "-"
        cells = f"{row.records:>10,}{row.core_ms:>9.2f}{share:>7}{row.seconds:>5.0f} s{resume:>8}"
        lines.append(f"{row.instance:20}{cells}{row.driver_bytes / 1e6:>6.0f} MB")
    return "\n".join(lines)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a share is above 0 and at most 1")
    return share


def main() -> None:
    try:
        _main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; run the same command again to resume") from None


def _main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the command that runs stops too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the data set, the run and the rows")
    parser.add_argument("--share", type=_share, default=1.0, help="of LID's images, above 0 and at most 1")
    parser.add_argument("--than", type=Path, help="folder of a smaller run, to compare with")
    parser.add_argument("--than-share", type=_share, default=0.01, help="its share of LID's images")
    options = parser.parse_args()
    rehearsal = Rehearsal(options.folder.resolve(), options.share)
    rows = rehearsal.rows()
    own = {row.instance: own_ms(row) for row in [*rehearsal.own_rows(), *(r for r in rows if r.kind == "build_shards")]}
    images = rehearsal.drawn.numbers.train
    checks = checks_of(rows, own, images)
    if options.than:
        checks |= compared(rehearsal, rows, options.than.resolve(), options.than_share)
    shown = table(rows, own)
    (options.folder / "table.md").write_text(shown + "\n")
    print(summary(rows, own))
    print(f"all columns: {options.folder / 'table.md'}; their meaning: tests/benchmarks/README.md")
    agreement = handled_all(rows, images) and rows[-1].records == rehearsal.drawn.numbers.test
    per_image = core_ms(rows, images)
    report = {
        "name": "full_size",
        "ratio": IMAGE_BAR / per_image,
        "agreement": agreement,
        "error": float(not agreement),
    }
    print(json.dumps(report | {"checks": checks, "images": images}))


if __name__ == "__main__":
    main()
