"""Dense CRF: compiled loops, and torch, against pydensecrf2; one thread, a drawn 375x500 picture.

`ratio` is for one label map. The checks add two of one image, as make_seeds has them, and torch, as on a GPU. The
lattice of the smoothness kernel is taken from the cache, as for every image but the first of a size.

With CFLAGS set, even empty, pydensecrf2 is built without -O3 and is 25 times as slow: a build that takes more than
SLOWEST_RIVAL seconds for one label map is refused.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from wsss.ops.dense_crf import BilateralKernel, GaussianKernel, dense_crf, unary_from_labels

SLOWEST_RIVAL = 2.0
HEIGHT, WIDTH, NUM_LABELS, NUM_ITERATIONS, GT_PROB, REPETITIONS = 375, 500, 3, 10, 0.7, 5
GAUSSIAN = GaussianKernel(sxy=3, compat=3)
BILATERAL = BilateralKernel(sxy=50, srgb=5, compat=10)


def draw_picture() -> tuple[np.ndarray, list[np.ndarray]]:
    """Two shaded objects before a shaded, textured background, with sensor noise; and label maps at two thresholds."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    texture = sum(np.sin((x * np.cos(a) + y * np.sin(a)) / s) * s for a, s in ((0.3, 3), (1.1, 8), (2.2, 15)))
    picture = np.stack([90 + x / 8 + texture, 130 - y / 9 + texture, 70 + y / 6 - texture], -1)
    distances = [
        ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 for cy, cx, ry, rx in ((180, 190, 95, 120), (230, 390, 70, 60))
    ]
    for distance, colour in zip(distances, ((190, 120, 60), (60, 70, 150)), strict=True):
        shade = 40 * (1 - distance)[..., None] + texture[..., None] / 3
        picture = np.where((distance < 1)[..., None], np.array(colour) + shade, picture)
    picture += rng.normal(0, 4, picture.shape)
    labels = []
    for limit in (0.5, 1.4):
        label = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for index, distance in enumerate(distances, start=1):
            label[distance < limit] = index
        labels.append(label)
    return picture.clip(0, 255).astype(np.uint8), labels


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(ours: Callable[[], np.ndarray], rival: Callable[[], np.ndarray]) -> tuple[float, float, float, float]:
    """Return our seconds and the rival's (medians, alternating, warm), the mean |dQ| and the share of equal labels."""
    mine, theirs = ours(), rival()
    times = [(seconds(ours), seconds(rival)) for _ in range(REPETITIONS)]
    our_seconds, rival_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    return (
        our_seconds,
        rival_seconds,
        float(np.abs(mine - theirs).mean()),
        float((mine.argmax(1) == theirs.argmax(1)).mean()),
    )


def main() -> int:
    try:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_labels as rival_unary
    except ImportError:
        print("pydensecrf2 is not installed: install the extra `bench` (it needs a C++ compiler)", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    picture, labels = draw_picture()

    def ours(maps: list[np.ndarray], *, in_torch: bool = False) -> np.ndarray:
        unaries = [unary_from_labels(torch.from_numpy(m), num_labels=NUM_LABELS, gt_prob=GT_PROB) for m in maps]
        return dense_crf(
            torch.stack(unaries),
            image_HW3=torch.from_numpy(picture),
            num_iterations=NUM_ITERATIONS,
            gaussian=GAUSSIAN,
            bilateral=BILATERAL,
            in_torch=in_torch,
        ).numpy()

    def rival(maps: list[np.ndarray]) -> np.ndarray:
        results = []
        for label in maps:
            crf = DenseCRF2D(WIDTH, HEIGHT, NUM_LABELS)
            crf.setUnaryEnergy(rival_unary(label, NUM_LABELS, gt_prob=GT_PROB, zero_unsure=False))
            crf.addPairwiseGaussian(sxy=GAUSSIAN.sxy, compat=GAUSSIAN.compat)
            crf.addPairwiseBilateral(sxy=BILATERAL.sxy, srgb=BILATERAL.srgb, rgbim=picture, compat=BILATERAL.compat)
            results.append(np.array(crf.inference(NUM_ITERATIONS)).reshape(NUM_LABELS, HEIGHT, WIDTH))
        return np.stack(results)

    if (taken := seconds(lambda: rival(labels[:1]))) > SLOWEST_RIVAL:
        print(
            f"pydensecrf2 took {taken:.1f} s for one label map: it was built without -O3. Install it again with CFLAGS "
            "unset: env -u CFLAGS pip install --force-reinstall --no-cache-dir pydensecrf2",
            file=sys.stderr,
        )
        return 1
    one = compare(lambda: ours(labels[:1]), lambda: rival(labels[:1]))
    two = compare(lambda: ours(labels), lambda: rival(labels))
    torch_one = compare(lambda: ours(labels[:1], in_torch=True), lambda: rival(labels[:1]))
    for what, (mine, theirs, _, _) in (("one map", one), ("two maps", two), ("one map in torch", torch_one)):
        print(f"{what}: {mine:.3f} s, rival {theirs:.3f} s")
    error, equal = max(case[2] for case in (one, two, torch_one)), min(case[3] for case in (one, two, torch_one))
    checks = {
        "mean |dQ|": {"value": error, "bar": 1e-6, "ok": error <= 1e-6},
        "equal labels": {"value": equal, "bar": 0.9999, "ok": equal >= 0.9999},
    }
    for what, case, bar in (("one map", one, 2.0), ("two maps", two, 2.0), ("one map in torch", torch_one, 1.0)):
        ratio = case[1] / case[0]
        checks[f"ratio, {what}"] = {"value": round(ratio, 2), "bar": bar, "ok": ratio >= bar}
    agreement = checks["mean |dQ|"]["ok"] and checks["equal labels"]["ok"]
    result = {
        "name": "dense_crf",
        "ratio": one[1] / one[0],
        "agreement": agreement,
        "error": error,
        "checks": checks,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
