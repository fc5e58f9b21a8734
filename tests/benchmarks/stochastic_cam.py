"""FickleNet's localisation maps at the paper's sizes: ours against expansion and autograd.

    .venv/bin/python -m tests.benchmarks.stochastic_cam

Both sides get the same features and weights and use one thread. Ours is timed for all 200 samples of two classes,
drawing the masks, normalising and aggregating included. The rival is the paper's method: windows side by side (here
`unfold`, which is cheaper than the [D, sh, sw] layout), dropout, convolution, pooling, autograd for each class. It
takes a second or more per sample, so it is timed on a few and compared PER SAMPLE, since its cost per sample is
constant. In its favour, its masks and windows are prepared beforehand, only the two classes are convolved, and
normalisation and aggregation are left out. Agreement is measured on the same masks: mean and maximum of the samples
that the rival was timed on.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.models.vgg import build_vgg
from wsss.ops.kept_draws import DrawKey
from wsss.ops.stochastic_cam import draw_masks, stochastic_cam

NUM_SAMPLES, NUM_RIVAL_SAMPLES, REPETITIONS = 200, 2, 3
CHANNELS, SIZE, KERNEL_SIZE, DROP_RATE, CLASSES = 512, (41, 41), 9, 0.9, (3, 8)
KEY = DrawKey((7, 11))
LARGEST_ERROR = 1e-5
RATIO_BAR, MEMORY_BAR, IMAGE_SIDE = 300.0, 1 / 20, 321


def expansion_and_autograd(features: Tensor, *, weights: Tensor, masks: Tensor) -> Tensor:
    """Maps [S,K,h,w], one sample after another."""
    x = features.clone().requires_grad_()
    flat_weights = weights.flatten(1)
    maps = []
    for mask in masks:
        windows = F.unfold(x[None], KERNEL_SIZE, padding=KERNEL_SIZE // 2)[0].unflatten(0, (CHANNELS, -1))
        visible = windows * mask.flatten(-2).to(x.dtype)
        scores = (flat_weights @ visible.flatten(0, 1)).mean(dim=1)
        gradients = [
            torch.autograd.grad(score, x, retain_graph=k + 1 < len(scores))[0] for k, score in enumerate(scores)
        ]
        maps.append(torch.stack([(features * gradient).sum(dim=0).relu() for gradient in gradients]))
    return torch.stack(maps)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Features, weights of all classes, and masks for the rival: the first ones of ours."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(CHANNELS, *SIZE, generator=generator).relu_()
    weights = torch.randn(20, CHANNELS, KERNEL_SIZE, KERNEL_SIZE, generator=generator) * 0.01
    draw = {"kernel_size": KERNEL_SIZE, "drop_rate": DROP_RATE, "num_samples": NUM_RIVAL_SAMPLES}
    return features, weights, draw_masks(SIZE, key=KEY, **draw)


def work(side: str) -> Callable[[], object]:
    """`ours`: mean and maximum of all samples; `rival`: the maps of a few."""
    features, weights, masks = inputs()
    if side == "rival":
        of_classes = weights[[class_id - 1 for class_id in CLASSES]]
        return lambda: expansion_and_autograd(features, weights=of_classes, masks=masks)
    return lambda: stochastic_cam(
        features,
        weights_CDss=weights,
        classes=CLASSES,
        num_samples=NUM_SAMPLES,
        drop_rate=DROP_RATE,
        key=KEY,
    )


def peak_memory(side: str) -> int:
    """Peak memory that the work adds, in bytes; called in a new process, which has no freed memory to reuse."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    call = work(side)
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def largest_error(features: Tensor, weights: Tensor, wanted: Tensor) -> float:
    """Largest error of the timed function, on the rival's masks, which have the same key."""
    mean, peak = stochastic_cam(
        features,
        weights_CDss=weights,
        classes=CLASSES,
        num_samples=NUM_RIVAL_SAMPLES,
        drop_rate=DROP_RATE,
        key=KEY,
    )
    each = wanted / wanted.amax((2, 3), keepdim=True)
    return max(float((mean - each.mean(0)).abs().max()), float((peak - each.amax(0)).abs().max()))


def main() -> None:
    features, weights, _ = inputs()
    ours, rival = work("ours"), work("rival")
    encoder = build_vgg("vgg16_ficklenet", imagenet=False).eval()
    image = torch.randn(1, 3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(1))

    @torch.inference_mode()
    def forward() -> object:
        return encoder.forward_features(image)

    wanted = rival()
    ours(), forward()
    assert isinstance(wanted, Tensor)
    error = largest_error(features, weights, wanted)
    times = [(seconds(ours), seconds(rival), seconds(forward)) for _ in range(REPETITIONS)]
    mine, theirs, encoding = (statistics.median(column) for column in zip(*times, strict=True))
    rival_per_sample = theirs / NUM_RIVAL_SAMPLES
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        memory, rival_memory = processes.map(peak_memory, ("ours", "rival"))
    report = {
        "name": "stochastic_cam",
        "ratio": rival_per_sample / (mine / NUM_SAMPLES),
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": {
            "ratio per sample": {
                "value": rival_per_sample / (mine / NUM_SAMPLES),
                "bar": RATIO_BAR,
                "ok": rival_per_sample / (mine / NUM_SAMPLES) >= RATIO_BAR,
            },
            "added memory / rival's": {
                "value": memory / rival_memory,
                "bar": MEMORY_BAR,
                "ok": memory / rival_memory <= MEMORY_BAR,
            },
            "200 samples / one VGG16 forward pass at 321 px": {
                "value": mine / encoding,
                "bar": 1.0,
                "ok": mine < encoding,
            },
        },
        "seconds_for_200_samples": mine,
        "vgg16_seconds": encoding,
        "rival_seconds_per_sample": rival_per_sample,
        "memory_bytes": memory,
        "rival_memory_bytes": rival_memory,
        "note": f"per sample; the rival was run on {NUM_RIVAL_SAMPLES} samples, ours on {NUM_SAMPLES}; one thread",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
