"""Two submissions of 4,690 images and 201 classes compared, against a plain loop with numpy.

Images of 375 x 500 pixels with a mask of two to five classes; the label maps differ from it in blobs. Ours is all of
`wsss compare`: reading the layers, counting, intervals, tests and tables, with as many processes as there are cores.
The rival reads the same label maps from PNG files that are already in memory and counts each class by comparing maps,
without any interval or test; it is timed on a part of the images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from shards.images import decode_index_png, encode_png
from tests.tuning.drawn_results import Draw, write_evaluation, write_predictions, write_samples
from tuning.comparison import compare_results
from tuning.leaderboard import Row

SIZE, NUM_CLASSES = (375, 500), 201
SECONDS_BAR, MEMORY_BAR = 60.0, 2**30
NUM_BYTES = 100_000
"""Of an image's file, which is read and checked with its mask, but not decoded."""
NUM_RIVAL = 20
"""Images that the rival counts."""


def mask(position: int) -> np.ndarray:
    """Rectangles of two to five classes on background."""
    random = np.random.default_rng(position)
    drawn = np.zeros(SIZE, dtype=np.uint8)
    for _ in range(random.integers(2, 6)):
        top, left = random.integers(0, SIZE[0] - 60), random.integers(0, SIZE[1] - 80)
        height, width = random.integers(40, 200), random.integers(40, 250)
        drawn[top : top + height, left : left + width] = random.integers(1, NUM_CLASSES)
    return drawn


def noisy(seed: int, num_blobs: int) -> Draw:
    """Blobs of other labels on the mask."""

    def draw(position: int) -> np.ndarray:
        random, label = np.random.default_rng(seed * 100_000 + position), mask(position)
        for _ in range(num_blobs):
            top, left = random.integers(0, SIZE[0] - 30), random.integers(0, SIZE[1] - 30)
            label[top : top + 30, left : left + 30] = random.integers(1, NUM_CLASSES) * random.integers(2)
        return label

    return draw


def build(runs: Path, num_images: int, *, encoded: bytes = b"") -> list[Row]:
    """The layers and records, and the rows that MLflow would have; `encoded`: the file of every image."""
    keys = [f"ILSVRC2012_val_{number:08d}" for number in range(num_images)]
    classes = tuple(f"class {number}" for number in range(1, NUM_CLASSES))
    samples = write_samples(runs, mask, keys=keys, classes=classes, encoded=encoded)
    rows = []
    for recipe, digit, blobs in (("first", "1", 6), ("second", "2", 5)):
        made = write_predictions(runs, noisy(int(digit), blobs), keys=keys, samples=samples, recipe=recipe, digit=digit)
        lineage = write_evaluation(runs, made, recipe=recipe, digit=digit)
        rows.append(
            Row(
                run_id=digit * 32, recipe=recipe, instance="evaluate", pipeline=digit * 64,
                fingerprint=lineage["fingerprint"], sweep="", metrics={}, image_set="val", labels_given=False,
                supervision="", finished=0.0,
            )
        )  # fmt: skip
    return rows


def by_loop(images: list[tuple[bytes, bytes, bytes]]) -> list[dict[int, tuple[int, int]]]:
    """Hits and union of every class in either system."""
    sums: list[dict[int, tuple[int, int]]] = [{}, {}]
    for encoded in images:
        truth, *labels = (decode_index_png(data) for data in encoded)
        for system, label in enumerate(labels):
            for class_id in range(NUM_CLASSES):
                a, b = truth == class_id, label == class_id
                hits, union = int((a & b).sum()), int((a | b).sum())
                before = sums[system].get(class_id, (0, 0))
                sums[system][class_id] = (before[0] + hits, before[1] + union)
    return sums


MEASURED = """
import json, sys
from pathlib import Path
import tuning.named_results as named_results
from tuning.comparison import compare_results
from tuning.comparison_page import comparison_page
from tuning.leaderboard import Row
from wsss.report.printing import print_page

runs = Path(sys.argv[1])
rows = [Row(**values) for values in json.loads((runs / "rows.json").read_text())]
named_results.leaderboard = lambda *args, **options: rows
print_page(comparison_page(compare_results(["first", "second"], runs=runs)))
"""
"""All of `wsss compare` but reading MLflow, in a process of its own: its processes load nothing else."""


def run_measured(runs: Path) -> tuple[float, int, str]:
    """Seconds, the largest memory of all its processes together, and what it prints."""
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-c", MEASURED, str(runs)], stdout=out)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error):
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"the comparison ended with status {process.returncode}")
    return seconds, peak, text


def agree(rows: list[Row], folder: Path) -> float:
    """The largest difference in IoU between ours and the loop, on a few images of their own."""
    import tuning.named_results as named_results

    build(folder, NUM_RIVAL)
    vars(named_results)["leaderboard"] = lambda *args, **options: rows
    found = compare_results(["first", "second"], runs=folder).comparisons[0]
    numbers = range(NUM_RIVAL)
    encoded = [tuple(encode_png(draw(n)) for draw in (mask, noisy(1, 6), noisy(2, 5))) for n in numbers]
    sums = by_loop(encoded)  # type: ignore[arg-type]
    error = 0.0
    for one in found.classes:
        class_id = 0 if one.name == "background" else int(one.name.split()[1])
        for system, value in enumerate((one.a, one.b)):
            hits, union = sums[system][class_id]
            error = max(error, abs((value if value is not None else -1.0) - (hits / union if union else -1.0)))
    return error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4690)
    parser.add_argument("--data", type=Path, help="folder for the drawn layers; kept, and used again if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.data or Path(temporary) / "runs"
        kept = runs / "rows.json"
        if not kept.exists():
            rows = build(runs, options.images, encoded=os.urandom(NUM_BYTES))
            kept.write_text(json.dumps([vars(row) for row in rows]))
        rows = [Row(**values) for values in json.loads(kept.read_text())]
        seconds, peak, text = run_measured(runs)
        num_images = int(text.partition("Scores over ")[2].partition(" image")[0].replace(",", ""))
        encoded = [tuple(encode_png(draw(n)) for draw in (mask, noisy(1, 6), noisy(2, 5))) for n in range(NUM_RIVAL)]
        started = time.perf_counter()
        by_loop(encoded)  # type: ignore[arg-type]
        rival = (time.perf_counter() - started) / NUM_RIVAL * num_images
        error = agree(rows, Path(temporary) / "few")
    print(f"ours {seconds:.1f} s and {peak / 2**20:.0f} MiB, the loop {rival:.0f} s (from {NUM_RIVAL} images)")
    checks = {
        "seconds": {"value": seconds, "bar": SECONDS_BAR, "ok": seconds < SECONDS_BAR},
        "peak memory of all processes, bytes": {"value": peak, "bar": MEMORY_BAR, "ok": peak < MEMORY_BAR},
    }
    result = {
        "name": "compare", "ratio": rival / seconds, "agreement": error < 1e-12, "error": error,
        "images": num_images, "cores": len(os.sched_getaffinity(0)), "checks": checks,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
