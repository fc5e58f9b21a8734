"""A copy of the project whose recipes take seconds, in which the commands of a page run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from docs.site_pages import ROOT

FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml", "ray_cluster.yaml")
PARTS = ("cluster", "docs", "shards", "tests", "tuning", "wsss", *FILES)
SMALLER = (
    (r"counts = \{ train = \d+, val = \d+ \}", "counts = { train = 24, val = 12 }"),
    (r"\bsize = 128", "size = 64"),
    (r"shard_size = \d+", "shard_size = 12"),
    (r"num_epochs = \d+", "num_epochs = 1"),
    (r"crop_size = \d+", "crop_size = 64"),
    (r"resize_long = \[[^]]*\]", "resize_long = [48, 80]"),
    (r"validation_size = \d+", "validation_size = 64"),
    (r"long_side = \d+", "long_side = 64"),
    (r'"mobilenetv2_100"', '"test_efficientnet"'),
    (r"radius = 10", "radius = 4"),
    (r"world_size = 2", "world_size = 1"),
)
"""What a recipe says, and what the copy says instead."""
FEWER = ((r"num_trials = \d+", "num_trials = 2"),)
"""The same for sweeps."""
RECIPES = ("toy", "folder", "npa")
SWEEPS = ("background_thresholds", "irnet_thresholds", "npa_table")


def small_project(folder: Path) -> Path:
    """Copy the project into `folder`, with smaller recipes and with this process's environment as its `.venv`."""
    ignored = shutil.ignore_patterns("__pycache__", "runs", "build")
    folder.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": ignored} if (ROOT / name).is_dir() else {}))  # type: ignore[operator]
    for name in RECIPES:
        _replace(folder / "tuning" / "recipes" / f"{name}.toml", SMALLER)
    for name in SWEEPS:
        _replace(folder / "tuning" / "sweeps" / f"{name}.toml", FEWER)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def environment(project: Path) -> dict[str, str]:
    """For a shell in the copy: its own packages come first, and nothing else of this session is passed on."""
    left_out = {"MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "COVERAGE_PROCESS_START"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out and "PYTEST" not in name}
    return kept | {"PYTHONPATH": str(project), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}


def _replace(path: Path, pairs: tuple[tuple[str, str], ...]) -> None:
    text = path.read_text()
    for pattern, instead in pairs:
        text = re.sub(pattern, instead, text)
    path.write_text(text)
