"""Figures of measurements, as PNG files whose bytes depend on what they show alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curve(
    mean_iou: Sequence[float],
    *,
    over_activation: Sequence[float],
    under_activation: Sequence[float],
    chosen: Sequence[float],
    title: str,
) -> bytes:
    """A PNG: mean IoU over thresholds i / N, below it both rates, and the thresholds chosen on either half."""
    from matplotlib.figure import Figure  # takes seconds to import

    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    thresholds = [i / len(mean_iou) for i in range(len(mean_iou))]
    above.plot(thresholds, [100 * value for value in mean_iou], color="#20639b")
    over, under = ([100 * value for value in values] for values in (over_activation, under_activation))
    below.plot(thresholds, over, color="#3caea3", label="over: background called a class")
    below.plot(thresholds, under, color="#173f5f", linestyle=":", label="under: a class called background")
    for axes in (above, below):
        for threshold in chosen:
            axes.axvline(threshold, color="#ed553b", linewidth=0.8, linestyle="--")
        axes.grid(alpha=0.3)
    above.set_ylabel("mean IoU, %")
    below.set_ylabel("activation, %")
    below.set_ylim(0, 100)
    below.legend(fontsize=7)
    below.set_xlabel("background threshold (dashed: chosen on either half)")
    above.set_title(title, fontsize=9)
    return _png(figure)


def draw_class_histogram(counts_C: Sequence[float], *, drawn_C: Sequence[float], names: Sequence[str]) -> bytes:
    """A PNG: images of each class, and how many of them an epoch draws; most frequent class first, logarithmic."""
    from matplotlib.figure import Figure

    order = sorted(range(len(names)), key=lambda c: -counts_C[c])
    figure = Figure(figsize=(max(5.0, 0.11 * len(names)), 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.bar(places, [counts_C[c] for c in order], width=0.9, color="#b8c4d0", label="images")
    axes.step(places, [drawn_C[c] for c in order], where="mid", color="#ed553b", linewidth=1.2, label="drawn per epoch")
    axes.set_yscale("log")
    axes.set_xticks(places, [names[c] for c in order], rotation=90, fontsize=5 if len(names) > 40 else 8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.legend(fontsize=8)
    return _png(figure)


def draw_confusion(
    share_RC: Sequence[Sequence[float]], *, truth: Sequence[str], prediction: Sequence[str], title: str
) -> bytes:
    """A PNG: of the pixels of each true class (a row), the share that each prediction (a column) gets.

    A row of NaN, a class that the truth does not hold, stays empty.
    """
    from matplotlib.figure import Figure

    height, width = 1.6 + 0.42 * len(truth), 2.6 + 0.46 * len(prediction)
    figure = Figure(figsize=(max(4.5, width), max(3.2, height)), dpi=120, layout="constrained")
    axes = figure.subplots()
    percent = [[100 * share for share in row] for row in share_RC]
    drawn = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_facecolor("#dddddd")
    for row, values in enumerate(percent):
        for column, value in enumerate(values):
            if value >= 0.5:  # below it would be written as 0, and NaN is not drawn
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(prediction)), prediction, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(truth)), truth, fontsize=8)
    axes.set_xlabel("prediction", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    axes.set_title(title, fontsize=9)
    scale = figure.colorbar(drawn, ax=axes, shrink=0.8)
    scale.set_label("% of the true class's pixels", fontsize=8)
    scale.ax.tick_params(labelsize=7)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without a date and version in the file, the same curve gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
