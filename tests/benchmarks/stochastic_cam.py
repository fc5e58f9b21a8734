"""FickleNet's localisation maps at the paper's sizes: ours against expansion and autograd.

    .venv/bin/python tests/benchmarks/stochastic_cam.py

Both sides get the same features and weights and use one thread. Ours is timed for all 200 samples of two classes,
drawing the masks, normalising and aggregating included. The rival is the paper's way: windows side by side (here
`unfold`, which is cheaper than the [D, sh, sw] layout), dropout, convolution, pooling, autograd for each class. It
takes a second or more a sample, so it is timed on few and compared PER SAMPLE: its cost does not depend on the number
of samples. In its favour, masks and windows are handed to it, only the two classes are convolved, and normalisation and
aggregation are left out. Agreement is measured on the same masks, on every sample that the rival was timed on.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.ops.stochastic_cam import draw_masks, stochastic_cam, stochastic_maps

NUM_SAMPLES, NUM_RIVAL_SAMPLES, REPETITIONS = 200, 2, 3
CHANNELS, SIZE, KERNEL_SIZE, DROP_RATE, CLASSES = 512, (41, 41), 9, 0.9, (3, 8)
LARGEST_ERROR = 1e-5
SECONDS_BAR = 1.0


def expansion_and_autograd(features: Tensor, *, weights: Tensor, masks: Tensor) -> Tensor:
    """Maps [S,K,h,w], one sample after the other."""
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


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(CHANNELS, *SIZE, generator=generator).relu_()
    weights = torch.randn(20, CHANNELS, KERNEL_SIZE, KERNEL_SIZE, generator=generator) * 0.01
    of_classes = weights[[class_id - 1 for class_id in CLASSES]]
    draw = {"kernel_size": KERNEL_SIZE, "drop_rate": DROP_RATE, "num_samples": NUM_RIVAL_SAMPLES}
    masks = draw_masks(SIZE, generator=generator, **draw)

    def ours() -> object:
        return stochastic_cam(
            features,
            weights_CDss=weights,
            classes=CLASSES,
            num_samples=NUM_SAMPLES,
            drop_rate=DROP_RATE,
            generator=generator,
        )

    def rival() -> Tensor:
        return expansion_and_autograd(features, weights=of_classes, masks=masks)

    wanted = rival()
    ours()
    maps = stochastic_maps(features, weights_CDss=weights, classes=CLASSES, masks=masks)
    error = float((maps - wanted).abs().max() / wanted.max())
    times = [(seconds(ours), seconds(rival)) for _ in range(REPETITIONS)]
    ours_seconds = statistics.median(mine for mine, _ in times)
    rival_per_sample = statistics.median(theirs for _, theirs in times) / NUM_RIVAL_SAMPLES
    report = {
        "name": "stochastic_cam",
        "ratio": rival_per_sample / (ours_seconds / NUM_SAMPLES),
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": {
            "seconds for 200 samples of 2 classes, one thread": {
                "value": ours_seconds,
                "bar": SECONDS_BAR,
                "ok": ours_seconds < SECONDS_BAR,
            },
        },
        "rival_seconds_per_sample": rival_per_sample,
        "note": f"per sample; the rival was run on {NUM_RIVAL_SAMPLES} samples, ours on {NUM_SAMPLES}",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
