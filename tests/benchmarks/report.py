"""The page of two runs with 201 classes, against the same figures drawn by matplotlib as PNGs inside a page.

Both draw, for one run, bars of all classes with intervals, a confusion matrix of 12 classes and a curve of 500 points.
Ours is inline SVG and tables. The whole page of both runs, with pictures, is measured as well: its size, and its
seconds without counting the pixels.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import tuning.html_report.page as page
import tuning.named_results as named_results
from tests.benchmarks.compare import build
from tests.tuning.drawn_results import folder_of, node
from tuning.html_report.charts import Bar, Series, bar_table, heat_table, line_chart
from tuning.html_report.measured_run import MeasuredRun, measure
from tuning.html_report.run_section import run_section

SIZE_BAR, SECONDS_BAR, RATIO_BAR = 5_000_000, 10.0, 5.0
NUM_POINTS, SHOWN = 500, 12


def figures(run: MeasuredRun, curve: Series) -> str:
    bars = [Bar(one.name, one.iou, one.low, one.high) for one in run.classes]
    share = run.confusion[:SHOWN, :SHOWN] / np.maximum(run.confusion.sum(1)[:SHOWN, None], 1)
    names = run.names[:SHOWN]
    return (
        bar_table("IoU", bars, name="class", value="IoU")
        + heat_table("confusion", share.tolist(), rows=names, columns=names)
        + line_chart("loss", [curve], x_name="step", y_name="loss")
    )


def by_matplotlib(run: MeasuredRun, curve: Series) -> str:
    from matplotlib.figure import Figure

    known = [one for one in run.classes if one.iou is not None]
    values = np.array([[one.iou, one.low, one.high] for one in known], dtype=float)
    bars = Figure(figsize=(7, 0.16 * len(known)), dpi=100, layout="constrained")
    errors = np.abs(values[:, 1:].T - values[:, 0])
    bars.subplots().barh([one.name for one in known], values[:, 0], xerr=errors)
    matrix = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    axes = matrix.subplots()
    share = run.confusion[:SHOWN, :SHOWN] / np.maximum(run.confusion.sum(1)[:SHOWN, None], 1)
    axes.imshow(share)
    axes.set_xticks(range(SHOWN), run.names[:SHOWN], rotation=90)
    axes.set_yticks(range(SHOWN), run.names[:SHOWN])
    line = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    line.subplots().plot(curve.x, curve.y)
    html = ""
    for figure in (bars, matrix, line):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        html += f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    return html


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    steps = np.arange(NUM_POINTS)
    curve = Series("loss", steps.tolist(), (1 / (1 + steps) + 0.01 * random.random(NUM_POINTS)).tolist())
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(temporary)
        rows = build(runs, options.images)
        write_curves(runs, curve)
        for module in (named_results, page):
            vars(module)["leaderboard"] = lambda *args, **more: rows
        (result,) = named_results.find_results(["first"], runs=runs, uri="", notes=[])
        run = measure(result, rows, runs=runs, on_progress=lambda done, total: None)
        seconds: dict[str, list[float]] = {"ours": [], "rival": []}
        sizes: dict[str, int] = {}
        by_matplotlib(run, curve)
        for _ in range(options.repetitions):
            for name, draw in (("ours", figures), ("rival", by_matplotlib)):
                start = time.process_time()
                html = draw(run, curve)
                seconds[name].append(time.process_time() - start)
                sizes[name] = len(html)
        start = time.process_time()
        sections = [run_section(run, runs=runs, number=number, num_images=12) for number in (1, 2)]
        drawing = time.process_time() - start
        size = page.write_report(["first", "second"], runs / "report.html", runs=runs)
        error = difference(figures(run, curve), run)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["rival"] / median["ours"]
    both = [f"{name} {median[name]:.3f} s of CPU, {sizes[name]:,} bytes" for name in ("ours", "rival")]
    print("; ".join(both))
    checks = {
        "matplotlib / ours": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR},
        "bytes of the page of two runs": {"value": size, "bar": SIZE_BAR, "ok": size <= SIZE_BAR},
        "CPU seconds of its two sections": {"value": drawing, "bar": SECONDS_BAR, "ok": drawing <= SECONDS_BAR},
    }
    agreement = error < 0.06 and all(len(section) > 1000 for section in sections)
    print(json.dumps({"name": "report", "ratio": ratio, "agreement": agreement, "error": error, "checks": checks}))


def write_curves(runs: Path, curve: Series) -> None:
    for digit in "12":
        folder = folder_of(runs, node("train_segmenter", digit))
        folder.mkdir(parents=True)
        points = zip(curve.x, curve.y, strict=True)
        lines = [json.dumps({"step": x, "time": 0.0, "values": {"train/loss": y}}) for x, y in points]
        (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")


def difference(html: str, run: MeasuredRun) -> float:
    """The largest difference between the IoU in the page and the measured one, in percentage points."""
    shown = dict(re.findall(r'<th scope="row">([^<]*)</th><td class="r">([\d.]+) \(', html))
    return max(abs(float(shown[one.name]) - 100 * one.iou) for one in run.classes if one.iou is not None)


if __name__ == "__main__":
    main()
