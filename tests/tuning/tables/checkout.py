"""A small checkout with pages and declarations of tables, and run records of the toy recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shards.records import RunRecord
from tuning.tables.__main__ import main
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES

TABLE = """
page = "README.md"
recipe = "toy"
command = "wsss demo"
columns = [
  { title = "step" },
  { title = "val", metric = "val.mean_iou", show = "interval", best = true },
  { title = "seed 2", metric = "val.mean_iou", source = "second" },
]
[[rows]]
text = "CAM"
sources.measured = "evaluate_cam"
[[rows]]
text = "walk"
sources.measured = "evaluate_walk"
sources.second = { instance = "evaluate_walk", set = ["recipe.seed=2"] }
"""
PAGE = "# Page\n\n<!-- table: steps -->\n<!-- /table -->\n\nText after.\n"
FINISHED = 1_795_953_600.0
"""2026-11-29."""


def checkout(root: Path, *, declared: Mapping[str, str] | None = None, page: str = PAGE, other: str = "") -> Path:
    """A root with both pages and declarations; `other` is the content of not_measured.toml."""
    tables = root / "tuning" / "tables"
    for folder in ("declared", "measured"):
        (tables / folder).mkdir(parents=True)
    for name, text in (declared or {"steps": TABLE}).items():
        (tables / "declared" / f"{name}.toml").write_text(text)
    (tables / "not_measured.toml").write_text(other or "tables = []\n")
    (root / "README.md").write_text(page)
    (root / "tuning" / "README.md").write_text("# Experiments\n")
    return root


def measure(runs: Path, instance: str, *overrides: str, recipe: str = "toy", **metrics: float) -> None:
    """Write the run record of an instance, as if it had run; `val__mean_iou` stands for `val.mean_iou`."""
    found = load_recipe(RECIPES / f"{recipe}.toml", [*overrides, f"runtime.runs={runs}"]).instance(instance)
    found.path.mkdir(parents=True)
    found.write_run_record(
        RunRecord(
            recipe=recipe,
            instance=instance,
            kind=found.stage.kind,
            fingerprint=found.fingerprint,
            settings={},
            upstream={},
            git_commit="0123456789abcdef",
            metrics={"labels_given": 1.0} | {name.replace("__", "."): value for name, value in metrics.items()},
            tables={"per_class.val": [{"class": "fin", "class_id": 1, "iou": 0.25}]},
            artifacts={"curve": str(runs / "gone.png")},
            finished=FINISHED,
        )
    )


def measured_checkout(root: Path, runs: Path) -> Path:
    """A checkout whose table was written from run records."""
    measure(runs, "evaluate_cam", val__mean_iou=0.5, val__mean_iou_low=0.4, val__mean_iou_high=0.6)
    measure(runs, "evaluate_walk", val__mean_iou=0.625)
    measure(runs, "evaluate_walk", "recipe.seed=2", val__mean_iou=0.612)
    assert main(["--runs", str(runs)], root=checkout(root)) == 0
    return root


def contents(root: Path) -> dict[str, str]:
    """Path below the root -> text, of every file."""
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
