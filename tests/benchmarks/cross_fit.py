"""Two folds of cross-fitting against one training on all images: the same number of steps, on the same images.

Each of the two trainings has half of the images, so together they take as many steps as the one; what is added is the
second start: its process, its network, its first batch, its checkpoints and its validation, about 6 seconds of a core.
Of a training of 30 seconds (--epochs 3) that is 1.21 times the whole. Both run through `wsss run`'s own code with one
rank and one thread, on drawn images and MobileNetV2 from random weights; CPU seconds of driver and rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import torch

from cluster.local import LocalRuntime
from tests.pipeline.chain import NoTracker
from wsss.contract.fit import Fit
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.run import run_recipe

BAR = 1.15
NETWORK = "train_classifier"
TEXT = """
[recipe]
name = "cross_fit"
[defaults]
encoder = "mobilenetv2_100"
pretrained = "none"
[stages.build_shards]
source = "toy"
counts = {{ train = {images}, val = 32 }}
size = 128
shard_size = 16
[stages.train_classifier]
crop_size = 128
batch_size = 16
num_epochs = {epochs}
validation_size = 128
"""


def seconds_of(recipe: Recipe) -> tuple[float, int]:
    """CPU seconds of all trainings of a recipe, and their steps; the samples are built first."""
    networks = [one for one in recipe.instances if isinstance(one.stage, Fit)]
    _run(recipe, first=None, last="build_shards")
    begun = _cpu_seconds()
    _run(recipe, first=networks[0].name, last=networks[-1].name)
    return _cpu_seconds() - begun, sum(_steps(one.stage, one) for one in networks)


def _cpu_seconds() -> float:
    """Of this process and of the ranks that it has waited for."""
    return sum(os.times()[:4])


def _run(recipe: Recipe, *, first: str | None, last: str) -> None:
    runtime = LocalRuntime(recipe.runtime)
    try:
        run_recipe(recipe, runtime=runtime, tracker=NoTracker(), reporter=Reporter(quiet=True), first=first, last=last)
    finally:
        runtime.close()


def _steps(stage: object, instance: object) -> int:
    assert isinstance(stage, Fit)
    examples = stage.training_set(instance)  # type: ignore[arg-type]
    return sum(-(-examples.num_draws(epoch) // stage.batch_size) for epoch in range(stage.num_epochs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole, halves, steps = [], [], set()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "cross_fit.toml"
        path.write_text(TEXT.format(images=options.images, epochs=options.epochs))
        for number in range(-1, options.repetitions):  # the first warms up
            taken = []
            for folds in (1, 2):
                runs = Path(temporary) / f"runs{number}_{folds}"
                settings = [f"runtime.runs={runs}", f"{NETWORK}.folds={folds}"]
                if number < 0:
                    settings.append(f"{NETWORK}.num_epochs=1")
                taken.append(seconds_of(load_recipe(path, settings)))
            if number >= 0:
                whole.append(taken[0][0])
                halves.append(taken[1][0])
                steps.add((taken[0][1], taken[1][1]))
    (pair,) = steps
    cost = statistics.median(ours / theirs for ours, theirs in zip(halves, whole, strict=True))
    report = {
        "name": "cross_fit",
        "rival": "one training on all images, the same number of steps",
        "ratio": round(1 / cost, 3),
        "agreement": pair[0] == pair[1],
        "error": abs(pair[0] - pair[1]),
        "steps": list(pair),
        "seconds": {"whole": round(statistics.median(whole), 2), "two folds": round(statistics.median(halves), 2)},
        "checks": {"CPU time of two folds / one training": {"value": round(cost, 3), "bar": BAR, "ok": cost <= BAR}},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
