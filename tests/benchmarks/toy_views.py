"""Test-time augmentation on the toy recipe: does it add to a single view of the same segmenter, on the same images?

    .venv/bin/python -m tests.benchmarks.toy_views [--runs FOLDER]

Runs the toy recipe as `wsss demo` does (about 5 minutes on 2 cores; what FOLDER already has is reused), and compares
its two predictions on val image by image: one view, and three scales with their mirror images, inside the sizes that
the segmenter was trained on. The ratio is the mean IoU of all views ÷ that of one view. A 95 % interval of the
difference comes from 2,000 bootstrap samples of the images, the same ones for both. For comparison, without a bar: the
scales of LID's third place (.5, 1, 2), two of which this segmenter has never seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from shards.layer import split_of
from shards.reader import read_shard
from shards.records import IGNORE, Prediction, Sample
from wsss.contract.stage import Instance
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.recipe_files import RECIPES

RECIPE, PUBLISHED = RECIPES / "toy.toml", "predict.scales=[0.5,1.0,2.0]"
NUM_REPLICATES, SPLIT = 2000, "val"


def wsss(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "wsss", *arguments], check=True, stdout=subprocess.DEVNULL)


def confusions(predictions: Instance) -> Tensor:
    """i64[I, C, C]: the confusion matrix of every image."""
    num_classes, found = len(predictions.taxonomy) + 1, []
    for shard in predictions.layer.shards():
        if split_of(shard) != SPLIT:
            continue
        samples = read_shard(predictions.samples.layer, shard)
        for sample, prediction in zip(samples, read_shard(predictions.layer, shard), strict=True):
            assert sample.key == prediction.key
            truth, mask = (
                torch.from_numpy(np.asarray(one).astype(np.int64))
                for one in (cast(Sample, sample).mask, cast(Prediction, prediction).mask)
            )
            found.append(confusion_matrix(truth, mask, num_classes=num_classes, ignore_index=IGNORE))
    return torch.stack(found)


def mean_iou(confusion_CC: Tensor) -> float:
    return 100 * Scores.from_confusion(confusion_CC).mean_iou


def interval(one_ICC: Tensor, other_ICC: Tensor) -> tuple[float, float]:
    """95 % interval of mean IoU(other) - mean IoU(one), over images drawn with replacement."""
    generator, num_images = torch.Generator().manual_seed(1), len(one_ICC)
    differences = []
    for _ in range(NUM_REPLICATES):
        drawn = torch.randint(num_images, (num_images,), generator=generator)
        differences.append(mean_iou(other_ICC[drawn].sum(0)) - mean_iou(one_ICC[drawn].sum(0)))
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="the folder for results; a temporary one if not given")
    parser.add_argument("--on", default="ray", help="where the stages run: ray or local")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = f"runtime.runs={options.runs or Path(temporary) / 'runs'}"
        wsss("run", str(RECIPE), "--on", options.on, "--set", runs)
        own = ["--on", options.on, "--set", runs, "--set", PUBLISHED, "--set", "recipe.name=toy_published_scales"]
        wsss("run", str(RECIPE), *own, "--from", "predict", "--to", "predict")
        recipe, published = load_recipe(RECIPE, [runs]), load_recipe(RECIPE, [runs, PUBLISHED])
        one_ICC = confusions(recipe.instance("predict_single_view"))
        all_ICC = confusions(recipe.instance("predict"))
        published_ICC = confusions(published.instance("predict"))
    one, every, other = (mean_iou(counts.sum(0)) for counts in (one_ICC, all_ICC, published_ICC))
    low, high = interval(one_ICC, all_ICC)
    checks = {
        "points added by flips and trained scales": {"value": round(every - one, 2), "bar": 0, "ok": every > one},
        "lower end of its 95 % interval": {"value": round(low, 2), "bar": 0, "ok": low > 0},
    }
    print(f"one view {one:.1f}, all views {every:.1f} ({low:+.1f} to {high:+.1f}), scales .5, 1, 2: {other:.1f}")
    result = {
        "name": "toy_views",
        "ratio": round(every / one, 3),
        "agreement": len(one_ICC) == len(all_ICC) == len(published_ICC) > 0,
        "error": 0.0,
        "checks": checks,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
