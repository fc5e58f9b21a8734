"""FickleNet's head in training: the step time of a plain pooled linear head over ours, one thread.

    .venv/bin/python -m tests.benchmarks.stochastic_training

Both sit on the same VGG16 at output stride 8 (`vgg16_ficklenet`), at the paper's 321 pixels, with 20 classes; a step is
forward, binary cross entropy and backward. ratio = plain head's time / ours; 1 means no extra cost, and the bar is 0.9.
Agreement: logits and gradients of our head against the paper's expansion with autograd, in double precision, on
features of another size, so that the check takes seconds.
"""

from __future__ import annotations

import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.ops.kept_draws import DrawKey
from wsss.ops.stochastic_cam import draw_masks, stochastic_scores

SIDE, BATCH, NUM_CLASSES, KERNEL_SIZE, DROP_RATE, REPETITIONS = 321, 2, 20, 9, 0.9, 3
LARGEST_ERROR = 1e-5
KEY = DrawKey((0, 1))
RATIO_BAR = 0.9


def expansion(features_BDhw: Tensor, *, weights_CDss: Tensor, masks_BThw: Tensor) -> Tensor:
    """Logits [B,C] as in the paper: windows side by side, masked, convolved and pooled."""
    windows = F.unfold(features_BDhw, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
    windows = windows.unflatten(1, (features_BDhw.shape[1], -1)) * masks_BThw.flatten(-2)[:, None].to(features_BDhw)
    return (weights_CDss.flatten(1) @ windows.flatten(1, 2)).mean(dim=-1)


def largest_error() -> float:
    """Largest errors of logits and of both gradients, each relative to its largest value."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 13, 11, 17), (5, 13, KERNEL_SIZE, KERNEL_SIZE)
    features, weights = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    )
    masks = draw_masks((11, 17), kernel_size=KERNEL_SIZE, drop_rate=DROP_RATE, num_samples=2, key=KEY)
    errors = []
    sides = []
    for scores in (
        stochastic_scores(features, weights_CDss=weights, masks=masks),
        expansion(features, weights_CDss=weights, masks_BThw=masks),
    ):
        sides.append((scores, *torch.autograd.grad(scores.square().sum(), (features, weights))))
    for ours, wanted in zip(*sides, strict=True):
        errors.append(float(((ours - wanted).abs().max() / wanted.abs().max()).detach()))
    return max(errors)


def step(network: Classifier, image: Tensor, target: Tensor) -> float:
    start = time.perf_counter()
    logits = network(image, generator=torch.default_generator)
    F.binary_cross_entropy_with_logits(logits, target).backward()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = EncoderSpec(name="vgg16_ficklenet", output_stride=8, dilated=True, pretrained="none")
    encoder = build_encoder(spec)
    plain, stochastic = (
        Classifier(encoder, num_classes=NUM_CLASSES, head=head, kernel_size=KERNEL_SIZE, drop_rate=DROP_RATE).train()
        for head in ("linear", "stochastic")
    )
    image, target = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(0, 2, (BATCH, NUM_CLASSES)).float()
    for network in (plain, stochastic):
        step(network, image, target)
    times = [(step(plain, image, target), step(stochastic, image, target)) for _ in range(REPETITIONS)]
    plain_seconds = statistics.median(plainly for plainly, _ in times)
    our_seconds = statistics.median(ours for _, ours in times)
    error, ratio = largest_error(), plain_seconds / our_seconds
    report = {
        "name": "stochastic_training",
        "ratio": ratio,
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": {"plain head's step time / ours": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}},
        "seconds_per_step": {"plain": plain_seconds, "stochastic": our_seconds},
        "note": "ratio is the plain head's time over ours",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
