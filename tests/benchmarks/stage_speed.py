"""make_cams, make_seeds and IRNet's boundary maps against commit ee5a0ff: CPU seconds per image, one thread.

    .venv/bin/python -m tests.benchmarks.stage_speed [--images 6] [--photographs VOC/JPEGImages] [--only PART ...]

Parts: cams_mobilenet, cams_resnet, seeds, boundaries. Two processes, one per version, take turns; each trained the same
networks on the same images of 375 x 500 pixels, drawn ones without `--photographs` (random weights, one step: the time
of a network does not depend on its weights). Decoding is part of make_cams and make_seeds. The earlier version is a git
worktree that is removed at the end.

ratio: the geometric mean of the earlier version's CPU seconds / ours. agreement: boundary maps are equal within 1e-4;
CAMs, which are stored as float16, within 1e-4 and one step of float16 (4.9e-4 just below 1); at least 99.9 % of the
seeds' pixels are equal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shards.images import encode_jpeg
from tests.architecture.sources import ROOT
from tests.benchmarks.dense_crf import draw_picture
from tests.benchmarks.versions.stage_worker import PARTS

OLD_COMMIT = "ee5a0ff"
BARS = {"cams_mobilenet": 1.5, "cams_resnet": 1.2, "seeds": 2.0, "boundaries": 1.15}
REPETITIONS = 4
MAP_ERROR, STORED_MAP_ERROR, SEED_ERROR = 1e-4, 1e-4 + 2**-11, 1e-3
ERRORS = dict(zip(PARTS, (STORED_MAP_ERROR, STORED_MAP_ERROR, SEED_ERROR, MAP_ERROR), strict=True))

CLASSIFIER = """
[stages.{name}]
kind = "train_classifier"
encoder = "{encoder}"
pretrained = "none"
output_stride = 16
crop_size = 64
resize_long = [64, 96]
batch_size = 8
num_epochs = 1
validation_size = 64
"""
RECIPE = (
    """
[recipe]
name = "stage_speed"
seed = 1

[stages.build_shards]
source = "folder"
root = "{root}"
lists = {{ train = "labels.csv", val = "labels.csv" }}
shard_size = {num_images}
"""
    + CLASSIFIER.format(name="mobilenet", encoder="mobilenetv2_100")
    + CLASSIFIER.format(name="resnet", encoder="resnet50")
    + """
[stages.cams_mobilenet]
kind = "make_cams"
inputs = {{ classifier = "mobilenet" }}
scales = [0.5, 1.0, 1.5]
splits = ["train"]

[stages.seeds]
kind = "make_seeds"
inputs = {{ cams = "cams_mobilenet" }}
splits = ["train"]
foreground_threshold = 0.6
background_threshold = 0.4

[stages.train_affinity]
inputs = {{ seeds = "seeds" }}
encoder = "resnet50"
pretrained = "none"
crop_size = 96
batch_size = 8
num_epochs = 1

[stages.cams_resnet]
kind = "make_cams"
inputs = {{ classifier = "resnet" }}
scales = [0.5, 1.0, 1.5]
splits = ["train"]
"""
)


def make_images(root: Path, num_images: int, photographs: Path | None) -> None:
    """The images and their table: drawn, or spread over a folder of photographs. All show two classes; the first is
    the split val."""
    if photographs is None:
        files = [encode_jpeg(np.roll(draw_picture()[0], 31 * number, axis=1)) for number in range(num_images)]
    else:
        found = sorted(photographs.glob("*.jpg"))
        files = [path.read_bytes() for path in found[:: len(found) // num_images][:num_images]]
    rows = ["image,labels,split"]
    for number, content in enumerate(files):
        (root / f"{number}.jpg").write_bytes(content)
        rows.append(f"{number}.jpg,one|two,{'train' if number else 'val'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


class Version:
    """A process that times parts with one version of the package."""

    def __init__(self, tree: Path, folder: Path, recipe: Path) -> None:
        self._runs = folder
        worker = ROOT / "tests" / "benchmarks" / "versions" / "stage_worker.py"
        self._process = subprocess.Popen(
            [sys.executable, str(worker), str(recipe), str(folder)],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def seconds(self, part: str) -> float:
        """CPU seconds of one pass over all images."""
        assert self._process.stdin is not None
        print(part, file=self._process.stdin, flush=True)
        return float(self._answer())

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """The output of the first pass, by image."""
        with np.load(self._runs / f"{part}.npz") as file:
            return dict(file)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, wanted: str = "") -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # a training prints lines of its own
            word = line.strip()
            if word == wanted or (not wanted and word.replace(".", "", 1).replace("e-", "", 1).isdigit()):
                return word
        raise RuntimeError(f"a version ended with status {self._process.wait()}")


@contextmanager
def earlier_tree(folder: Path) -> Iterator[Path]:
    """The earlier version as a git worktree."""
    tree = folder / "old"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), OLD_COMMIT], cwd=ROOT, check=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference of maps, as a share of the largest value; of label maps, the share of unequal pixels."""
    assert ours.keys() == theirs.keys() and ours
    worst = 0.0
    for key, mine in ours.items():
        if mine.dtype == np.uint8:
            worst = max(worst, float((mine != theirs[key]).mean()))
        elif mine.size:
            gap = np.abs(mine.astype(np.float64) - theirs[key]).max()
            worst = max(worst, float(gap / np.abs(theirs[key]).astype(np.float64).max()))
    return worst


def measure(part: str, now: Version, old: Version, *, num_images: int) -> dict[str, Any]:
    """Medians of alternating passes, after one pass of each."""
    now.seconds(part), old.seconds(part)
    pairs = [(now.seconds(part), old.seconds(part)) for _ in range(REPETITIONS)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{part}: {1000 * mine / num_images:.0f} ms an image, {OLD_COMMIT} {1000 * theirs / num_images:.0f}", flush=True
    )
    return {"ratio": theirs / mine, "error": difference(now.arrays(part), old.arrays(part))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs; without it images are drawn")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, earlier_tree(Path(name)) as tree:
        recipe = Path(name) / "stage_speed.toml"
        make_images(Path(name), options.images + 1, options.photographs)
        recipe.write_text(RECIPE.format(num_images=options.images, root=name))
        now, old = (Version(one, Path(name) / runs, recipe) for one, runs in ((ROOT, "new"), (tree, "runs")))
        found = {part: measure(part, now, old, num_images=options.images) for part in options.only}
        now.close(), old.close()
    checks = {}
    for part, one in found.items():
        checks[f"{part}, seconds of {OLD_COMMIT} / ours"] = {
            "value": round(one["ratio"], 2),
            "bar": BARS[part],
            "ok": one["ratio"] >= BARS[part],
        }
        ok = one["error"] <= ERRORS[part]
        checks[f"{part}, difference"] = {"value": one["error"], "bar": ERRORS[part], "ok": ok}
    ratio = math.exp(statistics.fmean(math.log(one["ratio"]) for one in found.values()))
    agreement = all(check["ok"] for what, check in checks.items() if what.endswith("difference"))
    error = max(one["error"] for one in found.values())
    result = {"name": "stage_speed", "ratio": round(ratio, 2), "agreement": agreement, "error": error, "checks": checks}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
