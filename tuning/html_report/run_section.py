"""The part of a report about one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from tuning.html_report.charts import Bar, Series, bar_table, heat_table, line_chart
from tuning.html_report.markup import details, image_html, note, table_html
from tuning.html_report.measured_run import MeasuredRun, contact_rows, threshold_curves, training_curves
from tuning.leaderboard import METRICS, leaderboard_table
from tuning.lineage import Ancestor
from wsss.report.results_table import SUBSETS
from wsss.report.setting_tables import value_cell
from wsss.report.tables import Column, Shown, percent, table_of

IN_OTHER_PARTS = ("recipe", "sweep", "pipeline", "changed_settings")
"""Columns of the leaderboard that another part of the page shows."""
MAX_CONFUSED = 12
"""Classes of the confusion matrix: those with the most wrong pixels."""
PARTS = (
    "Scores", "Classes", "Images of a class and its IoU", "Confusion", "Test-time augmentation", "Threshold",
    "Training", "Images", "Settings and lineage",
)  # fmt: skip
_CURVES = (
    ("learning rate", lambda name: "learning_rate" in name),
    ("images per second", lambda name: "images_per_second" in name),
    ("share of the time that waits for data", lambda name: "data_wait" in name),
    ("gradient norm", lambda name: "gradient_norm" in name),
    ("validation", lambda name: name.startswith(("validation", "val."))),
    ("loss and its terms", lambda name: True),
)
"""Figures of a training: a name, and which values it shows; a value goes to the first that takes it."""


def run_section(run: MeasuredRun, *, runs: Path, number: int, num_images: int) -> str:
    """All parts, each under a heading; a part without data says so."""
    parts = zip(PARTS, _parts(run, runs=runs, num_images=num_images), strict=True)
    body = "".join(
        f'<h3 id="run{number}-{place}">{escape(title)}</h3>{html}' for place, (title, html) in enumerate(parts)
    )
    return (
        f'<section aria-labelledby="run{number}"><h2 id="run{number}">{escape(run.result.label)}</h2>{body}</section>'
    )


def _parts(run: MeasuredRun, *, runs: Path, num_images: int) -> Iterator[str]:
    yield _scores(run)
    bars = [Bar(one.name, one.iou, one.low, one.high, f"{one.images} / {one.training_images}") for one in run.classes]
    bars.sort(key=lambda bar: -1.0 if bar.value is None else bar.value, reverse=True)
    about = note("Intervals: 95 % bootstrap over the images; with few images of a class they are too narrow.")
    yield (
        bar_table("IoU of the classes, percent", bars, name="class", value="IoU", about="images / in training") + about
    )
    yield _histogram(run)
    yield _confusion(run)
    yield _views(run)
    yield _threshold(run, runs)
    yield _training(run, runs)
    yield _images(run, num_images)
    yield _settings(run)


def _scores(run: MeasuredRun) -> str:
    record, split = run.result.record, run.maps.split
    metrics = record.metrics if record is not None else {}
    found = {**METRICS, "boundary_iou": "boundary IoU", "over_activation": "background called a class",
             "under_activation": "a class called background"}  # fmt: skip
    rows = []
    for name, title in found.items():
        if (value := metrics.get(f"{split}.{name}")) is not None:
            low, high = (metrics.get(f"{split}.{name}_{end}") for end in ("low", "high"))
            both = None if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"
            rows.append((title, percent(value, digits=2), both))
    columns = (
        Column("score", "name"),
        Column("%", "value", right=True),
        Column("95% interval", "interval", right=True),
    )
    own = table_html(table_of(f"{run.result.name} on {split}", columns, rows))
    if len(run.others) < 2:
        return own
    table = leaderboard_table(run.others)
    return own + table_html(table, caption="All evaluations of this pipeline", without=IN_OTHER_PARTS)


def _histogram(run: MeasuredRun) -> str:
    known = [one for one in run.classes[1:] if one.iou is not None]
    if not any(one.training_images for one in known):
        return note("The samples of this run have no split train, so the number of training images is not known.")
    series = [Series("classes", [float(one.training_images) for one in known], [100 * (one.iou or 0) for one in known])]
    most = max(one.training_images for one in known)
    ordered = sorted(known, key=lambda one: -one.training_images)
    bars = [Bar(f"{one.name}, {one.training_images}", one.training_images / most, None, None) for one in ordered]
    scatter = line_chart(
        "IoU against the number of training images",
        series,
        x_name="training images",
        y_name="IoU, percent",
        points=True,
    )
    histogram = bar_table(
        "Training images of each class", bars, name="class, images", value="percent of the largest class"
    )
    return scatter + details("Histogram of the classes", histogram)


def _confusion(run: MeasuredRun) -> str:
    matrix = run.confusion.astype(np.float64)
    in_truth = matrix.sum(axis=1)
    wrong = matrix - np.diag(np.diag(matrix))
    amount = wrong.sum(axis=1) / np.maximum(in_truth, 1) + wrong.sum(axis=0) / max(wrong.sum(), 1)
    shown = sorted(np.argsort(-amount, kind="stable")[:MAX_CONFUSED].tolist())
    with np.errstate(invalid="ignore"):
        share = np.where(in_truth[:, None] > 0, matrix / np.maximum(in_truth, 1)[:, None], np.nan)
    names = [run.names[place] for place in shown]
    title = "Pixels of a true class by prediction, percent"
    if len(shown) < len(run.names):
        title += f"; the {MAX_CONFUSED} classes with most errors of {len(run.names)}"
    return heat_table(title, share[np.ix_(shown, shown)].tolist(), rows=names, columns=names)


def _views(run: MeasuredRun) -> str:
    record, split = run.result.record, run.maps.split
    metrics = record.metrics if record is not None else {}
    values = {words: metrics.get(f"{split}.mean_iou.{name}") for name, words in SUBSETS.items()}
    bars = [Bar(words, value, None, None) for words, value in values.items() if value is not None]
    if bars:
        own = metrics.get(f"{split}.mean_iou")
        merged = [] if own is None else [Bar("as submitted", own, None, None)]
        return bar_table("Mean IoU by views, percent", [*bars, *merged], name="views", value="mean IoU")
    return note("Not measured: the predictions were made with predict.ablation = [], which stores no single views.")


def _threshold(run: MeasuredRun, runs: Path) -> str:
    found = [
        line_chart(
            f"{name}, {run.maps.split}", [Series(one.name, one.x, [100 * y for y in one.y]) for one in series],
            x_name="threshold (dashed: chosen on each half)", y_name="percent", marks=chosen,
        )
        for name, series, chosen in threshold_curves(run, runs=runs)
    ]  # fmt: skip
    return "".join(found) or note("No evaluation of scores belongs to this pipeline.")


def _training(run: MeasuredRun, runs: Path) -> str:
    assert run.result.lineage is not None
    html = ""
    for name, series in training_curves(run.result.lineage, runs=runs):
        left, figures = list(series), ""
        for title, takes in _CURVES:
            chosen = [one for one in left if takes(one.name)]
            left = [one for one in left if one not in chosen]
            figures += line_chart(f"{name}: {title}", chosen, x_name="step", y_name=title)
        html += f"<h4>{escape(name)}</h4>{figures}"
    return html or note("The folders of the trainings have neither a curve nor a history.")


def _images(run: MeasuredRun, num_images: int) -> str:
    entries = []
    for key, score, tiles in contact_rows(run, num_images=num_images):
        drawn = "".join(image_html(tile.jpeg, alt=tile.alt, size=tile.size) for tile in tiles)
        heading = f"<p><code>{escape(key)}</code>: mean IoU {100 * score:.1f}</p>"
        entries.append(f'<li>{heading}<div class="tiles">{drawn}</div></li>')
    if not entries:
        return note("No picture fits into the page.")
    about = (
        "From the best to the worst image: image, truth, label map, errors (red: another class; blue: a class called "
        "background; amber: background called a class)."
    )
    return note(about) + f'<ul class="sheet">{"".join(entries)}</ul>'


def _settings(run: MeasuredRun) -> str:
    lineage, record = run.result.lineage, run.result.record
    assert lineage is not None
    columns = (Column("instance", "instance"), Column("kind", "kind"), Column("fingerprint", "fingerprint"))
    behind = list(lineage.all().values())
    rows = [(one.name, one.kind, Shown(one.fingerprint, one.fingerprint[:16])) for one in behind]
    html = table_html(table_of("Instances behind this result", columns, rows))
    row = run.result.row
    changed = [] if row is None else [(name, value_cell(value)) for name, value in row.changed.items()]
    pair = (Column("setting", "name"), Column("value", "value"))
    html += table_html(table_of("Settings that differ from the recipe's file", pair, changed))
    html += details("All settings", table_html(table_of("All settings", pair, _all_settings(behind)), is_tall=True))
    commit = record.git_commit if record is not None else "unknown"
    return html + note(f"Commit {commit}; pipeline {row.pipeline if row is not None else 'unknown'}.")


def _all_settings(behind: Sequence[Ancestor]) -> list[tuple[str, Shown]]:
    return [(f"{one.name}.{name}", value_cell(value)) for one in behind for name, value in one.settings.items()]
