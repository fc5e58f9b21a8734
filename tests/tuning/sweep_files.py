"""A recipe that needs no data, and sweeps over it."""

from __future__ import annotations

from pathlib import Path

from tuning.search_space import Sweep, load_sweep

RECIPE = """
[recipe]
name = "base"
[stages.build_shards]
source = "toy"
counts = { train = 8, val = 4 }
[stages.train_classifier]
[stages.make_cams]
[stages.make_seeds]
[stages.train_affinity]
[stages.make_scores]
[stages.make_pseudo_labels]
[stages.train_segmenter]
[stages.predict]
[stages.evaluate_walk]
kind = "evaluate"
inputs = { records = "make_scores" }
[stages.evaluate_pseudo_labels]
kind = "evaluate"
inputs = { records = "make_pseudo_labels" }
[stages.measured_seeds]
kind = "evaluate"
inputs = { records = "make_seeds" }
[stages.measured_cams]
kind = "evaluate"
inputs = { records = "make_cams" }
"""
SWEEP = """
[sweep]
name = "search"
recipe = "base.toml"
metric = "evaluate_pseudo_labels"
"""
THRESHOLD = "make_pseudo_labels.background_threshold"
COUNTED = SWEEP.replace("evaluate_pseudo_labels", "evaluate_walk") + '[fixed]\nmake_pseudo_labels.refine = "none"\n'


def written(folder: Path, space: str, *, sweep: str = SWEEP) -> Path:
    (folder / "base.toml").write_text(RECIPE)
    (folder / "search.toml").write_text(sweep + space)
    return folder / "search.toml"


def loaded(folder: Path, space: str, *, sweep: str = SWEEP, overrides: tuple[str, ...] = ()) -> Sweep:
    return load_sweep(written(folder, space, sweep=sweep), overrides)
