"""Sweeps on the toy recipe: against the same trials as single runs, and against an earlier version, side by side.

    .venv/bin/python -m tests.benchmarks.sweep [--runs FOLDER] [--old-runs FOLDER] [--only counted trial joint]

- `counted`: all 48 trials of `background_thresholds`, after the stages that they share. The rival is commit ee5a0ff in
  a git worktree, with its own folder of runs; both start with the shared stages done and without scores. The ratio is
  for the trials, from the first one's result to the last one's: it leaves out the starts of Python, Ray and MLflow,
  which are the same for both. The whole commands are compared too.
- `trial`: the same with all results found, beside as many trials of Ray Tune whose function returns at once: the
  difference of the median times from one trial's end to the next is what such a trial costs beyond Tune.
- `joint`: the 30 trials of `irnet_thresholds`. The rival is 30 runs of the recipe up to the same metric, each of which
  takes what the run records say. Every distinct stage instance must be executed exactly once.

`--runs`: a folder of a finished `wsss demo`, which is copied; without it the stages are run first. `--old-runs`: the
same for the earlier commit, with the shared stages finished. The sweeps run in processes of their own, stages in the
trial's process (`--on local`). One repetition of each: it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tests.architecture.sources import ROOT
from wsss.contract.stage import RUN_RECORD
from wsss.pipeline.recipe import load_recipe

OLD_COMMIT = "ee5a0ff"
SWEEPS = ROOT / "tuning" / "sweeps"
RATIO_BAR, TRIAL_MS_BAR, JOINT_BAR = 2.0, 50.0, 0.2
NUM_TRIALS = 48
PARTS = ("counted", "trial", "joint")


def lines_of(command: Sequence[str], *, tree: Path = ROOT) -> tuple[float, list[float]]:
    """Seconds of a command in a tree of the package, and from one of its lines `trial …` to the next."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    times, said = list[float](), list[str]()
    for line in process.stderr:
        said.append(line)
        if line.startswith("trial "):
            times.append(time.monotonic())
    assert process.wait() == 0, "".join(said)[-3000:]
    return time.monotonic() - began, [later - earlier for earlier, later in pairwise(times)]


def wsss(*words: str, tree: Path = ROOT) -> float:
    """Seconds of a command line in a tree of the package."""
    return lines_of(["-m", "wsss", *words], tree=tree)[0]


def command_and_trials(words: Sequence[str], *, tree: Path = ROOT) -> tuple[float, float]:
    """Seconds of a sweep's whole command, and from its first trial's result to its last one's."""
    whole, between = lines_of(["-m", "wsss", *words], tree=tree)
    return whole, sum(between)


def sweep_words(name: str, runs: Path, *settings: str, tree: Path = ROOT) -> list[str]:
    given = [word for setting in (f"runtime.runs={runs}", *settings) for word in ("--set", setting)]
    return ["sweep", str(tree / "tuning" / "sweeps" / f"{name}.toml"), "--on", "local", *given]


def without_scores(runs: Path) -> None:
    """Remove what the trials of `background_thresholds` make."""
    for pattern in ("make_scores-*", "evaluate-*"):
        for folder in (runs / "store").glob(pattern):
            shutil.rmtree(folder)
    shutil.rmtree(runs / "background_thresholds", ignore_errors=True)


def content_of(runs: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((runs / name / "sweep.json").read_bytes())
    return content


def old_seconds(folder: Path, done: Path | None, *, num_trials: int) -> tuple[float, float]:
    """Seconds of the command and of its trials at the earlier commit, whose shared stages are done first."""
    tree, runs = folder / "old", folder / "old_runs"
    subprocess.run(["git", "worktree", "add", "--detach", str(tree), OLD_COMMIT], cwd=ROOT, check=True)
    try:
        if done is not None:
            shutil.copytree(done, runs)
        else:
            wsss(*sweep_words("background_thresholds", runs, "sweep.num_trials=1", tree=tree), tree=tree)
        without_scores(runs)
        words = sweep_words("background_thresholds", runs, f"sweep.num_trials={num_trials}", tree=tree)
        return command_and_trials(words, tree=tree)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


EMPTY = """
import os, sys
from pathlib import Path
os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_AIR_NEW_OUTPUT="0")
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from cluster.session.ray_processes import end_session
from cluster.session.ray_session import connect
from tuning.distinct_search import DistinctSearch
from tuning.search_space import load_sweep

path, folder, number = sys.argv[1:]
sweep = load_sweep(Path(path), ["runtime.runs=" + folder])
connect(None)


def trial(config):
    return {"mean_iou": 0.5}


class Says(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        print("trial", trial, file=sys.stderr, flush=True)


config = tune.TuneConfig(
    search_alg=DistinctSearch.of(sweep), num_samples=int(number), max_concurrent_trials=1, reuse_actors=True
)
run = tune.RunConfig(name="empty", storage_path=folder, verbose=0, callbacks=[Says(), JsonLoggerCallback()])
tune.Tuner(tune.with_resources(trial, {"CPU": 0, "memory": 2**26}), tune_config=config, run_config=run).fit()
end_session()
"""
"""Tune alone: the same suggestions, and a function that returns at once."""


def empty_trial(folder: Path, *, num_trials: int) -> float:
    """Median seconds from one trial's end to the next, of Tune alone."""
    sweep = SWEEPS / "background_thresholds.toml"
    return median(lines_of(["-c", EMPTY, str(sweep), str(folder), str(num_trials)])[1])


def equals_the_curve(runs: Path) -> float:
    """The largest difference between a trial's mean IoU and the curve that `evaluate` wrote for the same scores."""
    worst = 0.0
    for trial in content_of(runs, "background_thresholds")["trials"]:
        beta, threshold = (
            trial["values"]["make_scores.beta"],
            trial["values"]["make_pseudo_labels.background_threshold"],
        )
        settings = [f"make_scores.beta={beta}", 'make_scores.splits=["val"]', 'evaluate_walk.splits=["val"]']
        settings += ['make_pseudo_labels.splits=["val"]', 'evaluate_pseudo_labels.splits=["val"]']
        recipe = load_recipe(SWEEPS.parent / "recipes" / "toy.toml", [*settings, f"runtime.runs={runs}"])
        lines = (recipe.instance("evaluate_walk").path / "threshold_curve.val.csv").read_text().splitlines()
        columns = lines[0].split(",")
        curve = {float(row[columns.index("threshold")]): float(row[columns.index("mean_iou")]) for row in _cells(lines)}
        worst = max(worst, abs(curve[threshold] - trial["mean_iou"]))
    return worst


def _cells(lines: list[str]) -> list[list[str]]:
    return [line.split(",") for line in lines[1:]]


def counted(folder: Path, runs: Path, old_runs: Path | None, *, num_trials: int) -> dict[str, Any]:
    """The trials of the background threshold, ours and those of the earlier commit."""
    without_scores(runs)
    whole, ours = command_and_trials(sweep_words("background_thresholds", runs, f"sweep.num_trials={num_trials}"))
    print(f"{num_trials} trials: ours {ours:.1f} s, the whole command {whole:.1f} s", flush=True)
    error = equals_the_curve(runs)
    old_whole, old = old_seconds(folder, old_runs, num_trials=num_trials)
    print(f"{num_trials} trials: {OLD_COMMIT} {old:.1f} s, the whole command {old_whole:.1f} s", flush=True)
    checks = {
        f"{num_trials} trials, seconds of {OLD_COMMIT} / ours": _check(old / ours, RATIO_BAR, at_least=True),
        "the whole command, with all starts": _check(old_whole / whole, 1.0, at_least=True),
    }
    return {"ratio": old / ours, "error": error, "checks": checks}


def trial(folder: Path, runs: Path, *, num_trials: int) -> dict[str, Any]:
    """One trial of a background threshold whose counts are there, beside Tune alone."""
    words = sweep_words("background_thresholds", runs, f"sweep.num_trials={num_trials}")
    wsss(*words)  # the counts of all trials
    found = median(lines_of(["-m", "wsss", *words])[1])
    empty = empty_trial(folder / "empty", num_trials=num_trials)
    print(f"a trial {1000 * found:.0f} ms, Tune alone {1000 * empty:.0f} ms", flush=True)
    beyond = _check(1000 * (found - empty), TRIAL_MS_BAR)
    return {"ratio": empty / found, "error": 0.0, "checks": {"ms of a trial beyond Tune": beyond}}


def single_run(runs: Path) -> float:
    """Recorded seconds of all stages of the recipe up to the metric of `joint`."""
    recipe = load_recipe(SWEEPS.parent / "recipes" / "toy.toml", [f"runtime.runs={runs}"])
    chain = recipe.instance("evaluate_pseudo_labels")
    return sum(_recorded_seconds(runs, instance) for instance in _behind(chain).values())


def joint(runs: Path, *, single: float) -> dict[str, Any]:
    """The 30 trials around IRNet, against as many single runs of `single` seconds."""
    seconds = wsss(*sweep_words("irnet_thresholds", runs))
    content = content_of(runs, "irnet_thresholds")
    executed = [name for trial in content["trials"] for name in trial["executed"]]
    distinct = _made_since(runs, content)
    print(f"{len(content['trials'])} trials in {seconds:.0f} s; a single run takes {single:.0f} s of stages")
    return {
        "ratio": len(content["trials"]) * single / seconds,
        "error": 0.0,
        "checks": {
            "30 trials, share of 30 runs": _check(seconds / (len(content["trials"]) * single), JOINT_BAR),
            "executions per distinct upstream": _check(len(executed) / max(distinct, 1), 1.0),
        },
    }


def _behind(instance: Any) -> dict[str, Any]:
    found = {instance.fingerprint: instance}
    for upstream in instance.inputs.values():
        found |= _behind(upstream)
    return found


def _recorded_seconds(runs: Path, instance: Any) -> float:
    record = json.loads((instance.path / RUN_RECORD).read_bytes())
    return float(record["seconds"])


def _made_since(runs: Path, content: Mapping[str, Any]) -> int:
    """Distinct stage instances that the trials executed, by the folders that they left."""
    from tuning.search_space import load_sweep

    sweep = load_sweep(SWEEPS / "irnet_thresholds.toml", [f"runtime.runs={runs}"])
    found = set()
    for trial in content["trials"]:
        recipe = sweep.trial_recipe(sweep.trial_overrides(trial["values"])) if trial["executed"] else None
        if recipe is not None:
            found |= {recipe.instance(name).fingerprint for name in trial["executed"]}
    return len(found)


def _check(value: float, bar: float, *, at_least: bool = False) -> dict[str, Any]:
    return {"value": round(value, 4), "bar": bar, "ok": value >= bar if at_least else value <= bar}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, help="the folder of runs of a finished `wsss demo`; it is copied")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--old-runs", type=Path, help=f"the shared stages of commit {OLD_COMMIT}, finished; copied")
    parser.add_argument("--trials", type=int, default=NUM_TRIALS, help="fewer than all, to try the script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = folder / "runs"
        if options.runs is not None:
            shutil.copytree(options.runs, runs)
        else:
            wsss("run", "toy", "--to", "evaluate_pseudo_labels", "--on", "local", "--set", f"runtime.runs={runs}")
        single, parts = single_run(runs), {}
        if "counted" in options.only:
            parts["counted"] = counted(folder, runs, options.old_runs, num_trials=options.trials)
        if "trial" in options.only:
            parts["trial"] = trial(folder, runs, num_trials=options.trials)
        if "joint" in options.only:
            parts["joint"] = joint(runs, single=single)
    checks = {what: one for part in parts.values() for what, one in part["checks"].items()}
    error, ratio = max(part["error"] for part in parts.values()), next(iter(parts.values()))["ratio"]
    result = {"name": "sweep", "ratio": round(ratio, 2), "agreement": error < 1e-9, "error": error, "checks": checks}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
