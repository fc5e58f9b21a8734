"""Test-time augmentation against its six passes one by one, in time and in memory, one thread.

    .venv/bin/python -m tests.benchmarks.tta

A DeepLabv3+ on ResNet-50 at output stride 8 with random weights, 201 classes, an image of 375 x 500, scales 0.5, 1 and
2 with their mirror images. The rival takes every view through the network, resizes its logits to the image's size and
adds them up. Ours is the stage's whole work: decoding, views, merged bands, labels and confidences. Memory is measured
in separate processes, against one pass of the largest view with its resize.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.images import encode_png
from shards.records import Sample
from tests.peak_memory import peak_bytes
from wsss.models.encoder import EncoderSpec
from wsss.models.segmenter import Segmenter, build_segmenter
from wsss.ops.multi_scale import resize_bilinear, view_sizes
from wsss.stages.predict import Predict

SIZE, SCALES, NUM_CLASSES = (375, 500), (0.5, 1.0, 2.0), 201
RATES = (12, 24, 36)
STAGE, TRAINED = Predict(scales=SCALES), SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
ERROR_BAR, RATIO_BAR, MEMORY_BAR = 1e-3, 0.95, 1.2
"""The error is the share of pixels whose labels differ: logits of random weights are close to each other."""


def make_network() -> Segmenter:
    torch.manual_seed(0)
    spec = EncoderSpec(name="resnet50", output_stride=8, dilated=True, pretrained="none")
    return (
        build_segmenter(spec, atrous_rates=RATES, num_classes=NUM_CLASSES).to(memory_format=torch.channels_last).eval()
    )


def make_sample() -> Sample:
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Sample(key="a", encoded=encode_png(pixels), size=SIZE, classes=())


def passes(network: Segmenter, image: Tensor, scales: tuple[float, ...]) -> Tensor:
    """The sum of the views' logits, f32[C, H, W]."""
    total = torch.zeros(1, NUM_CLASSES, *SIZE)
    for size in view_sizes(SIZE, scales=scales):
        for mirrored in (False, True):
            view = resize_bilinear(image, size=size)
            logits = network(view.flip(-1) if mirrored else view)
            total += resize_bilinear(logits.flip(-1) if mirrored else logits, size=SIZE)
    return total[0]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this thread, which does all the work: the wall time of an idle machine, also on a busy one."""
    start = time.thread_time()
    result = call()
    return time.thread_time() - start, result


@torch.inference_mode()
def added_mib(what: str) -> float:
    """Peak memory beyond that of the network and a small pass: for ours, or for one pass of the largest view."""
    network, sample = make_network(), make_sample()
    image = STAGE.image(sample, network, TRAINED)
    network(image[..., :64, :64])
    before = peak_bytes()
    if what == "ours":
        STAGE._prediction(sample, network, TRAINED)
    else:
        resize_bilinear(network(resize_bilinear(image, size=view_sizes(SIZE, scales=SCALES)[-1])), size=SIZE)
    return (peak_bytes() - before) / 2**20


def measured_apart(what: str) -> float:
    done = subprocess.run([sys.executable, __file__, "--memory-of", what], capture_output=True, text=True, check=True)
    return float(done.stdout)


@torch.inference_mode()
def compare(repetitions: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the rival, and the share of pixels whose labels differ."""
    network, sample = make_network(), make_sample()
    image = STAGE.image(sample, network, TRAINED)
    network(image[..., :64, :64])
    ours, rivals, error = [], [], 0.0
    for _ in range(repetitions):
        seconds, prediction = timed(lambda: STAGE._prediction(sample, network, TRAINED))
        ours.append(seconds)
        seconds, total_CHW = timed(lambda: passes(network, image, SCALES))
        rivals.append(seconds)
        error = max(error, float((prediction.mask != total_CHW.argmax(0).numpy()).mean()))
    return statistics.median(ours), statistics.median(rivals), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--repetitions", type=int, default=3, help="alternating runs; each side takes about half a minute"
    )
    parser.add_argument("--memory-of", choices=["ours", "largest"], help="print the MiB added, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(added_mib(options.memory_of))
        return
    memory_ours, memory_largest = measured_apart("ours"), measured_apart("largest")
    ours, rival, error = compare(options.repetitions)
    print(f"six views: {ours:.2f} s, passes one by one {rival:.2f} s; {memory_ours:.0f} MiB, {memory_largest:.0f} MiB")
    memory, ratio = memory_ours / memory_largest, rival / ours
    checks = {
        "ratio": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR},
        "added memory / that of the largest view": {"value": memory, "bar": MEMORY_BAR, "ok": memory <= MEMORY_BAR},
    }
    result = {"name": "tta", "ratio": ratio, "agreement": error <= ERROR_BAR, "error": error, "checks": checks}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
