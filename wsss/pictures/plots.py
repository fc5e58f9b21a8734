"""Figures of measurements, as PNG files whose bytes depend only on the data shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.summary import LayerSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_CLASSES_BELOW_EACH_OTHER = 50
_AS_WRITTEN: Mapping[str, Any] = {"parse_math": False, "usetex": False}
"""For text from the user: matplotlib would interpret `$` in a class name as mathematics, or all of it as TeX."""
_PRESENT, _ABSENT, _UNKNOWN = "#20639b", "#b8c4d0", "#f6d55c"


def draw_curve(
    mean_iou: Sequence[float],
    *,
    over_activation: Sequence[float],
    under_activation: Sequence[float],
    chosen: Sequence[float],
    title: str,
    threshold_name: str = "background threshold",
) -> bytes:
    """A PNG: mean IoU over thresholds i / N, below it both rates, and the thresholds chosen on each half."""
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
    below.set_xlabel(f"{threshold_name} (dashed: chosen on either half)", **_AS_WRITTEN)
    above.set_title(title, fontsize=9, **_AS_WRITTEN)
    return _png(figure)


def draw_class_histogram(
    counts_C: Sequence[float],
    *,
    drawn_C: Sequence[float],
    names: Sequence[str],
    validation_C: Sequence[float] | None = None,
) -> bytes:
    """A PNG: training images of each class, and how many of them an epoch draws; most frequent class first.

    `validation_C`: images of each class in the validation split, drawn below on a separate axis. All axes are
    linear from 0: the length of a bar is its number.
    """
    from matplotlib.figure import Figure

    order = sorted(range(len(names)), key=lambda c: -counts_C[c])
    rows = 1 if validation_C is None else 2
    figure = Figure(figsize=(max(5.0, 0.11 * len(names)), 1.2 + 2.2 * rows), dpi=120, layout="constrained")
    panels = figure.subplots(rows, squeeze=False, sharex=True)[:, 0]
    places = range(len(names))
    panels[0].bar(places, [counts_C[c] for c in order], width=0.9, color="#b8c4d0", label="images")
    drawn = [drawn_C[c] for c in order]
    panels[0].step(places, drawn, where="mid", color="#ed553b", linewidth=1.2, label="drawn per epoch")
    panels[0].set_title("training images of each class", fontsize=9)
    panels[0].legend(fontsize=8)
    if validation_C is not None:
        panels[1].bar(places, [validation_C[c] for c in order], width=0.9, color=_PRESENT)
        panels[1].set_title("validation images of each class", fontsize=9)
    for axes in panels:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("images", fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
    size = 5 if len(names) > 40 else 8
    panels[-1].set_xticks(places, [names[c] for c in order], rotation=90, fontsize=size, **_AS_WRITTEN)
    panels[-1].set_xlim(-0.6, len(names) - 0.4)
    return _png(figure)


def draw_layer(summary: LayerSummary, *, title: str) -> bytes:
    """A PNG: images of each class, most frequent first, every split on its own linear axis from 0.

    If classes are unknown in some images, also the percentage of images in which a class is present, absent and
    unknown; below, sizes of the images and records.
    """
    from matplotlib.figure import Figure

    order = sorted(summary.classes(), key=lambda c: -summary.present[c])
    columns = max(1, -(-len(order) // _CLASSES_BELOW_EACH_OTHER))
    each = -(-len(order) // columns)
    panels = max(1, len(summary.present_in))
    width = 1.2 + 2.0 * panels + (1.0 if summary.unknown else 0.0)
    heights = (0.6 + 0.155 * each, 2.4)
    figure = Figure(figsize=(max(7.0, width * columns), 0.3 + sum(heights)), dpi=110, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=heights)
    above, below = halves
    figure.suptitle(f"{title}: {summary.num_records} {summary.kind} records", fontsize=9, **_AS_WRITTEN)
    if order:
        _draw_classes(above, summary, order, columns=columns, each=each)
    left, right = below.subplots(1, 2)
    _draw_sizes(left, np.asarray(summary.sides), label="longer side of an image, pixels (dashed: median)")
    _draw_sizes(right, np.asarray(summary.weights) / 1000, label="bytes of a record, thousands (dashed: median)")
    left.set_ylabel("records", fontsize=8)
    return _png(figure)


def _draw_classes(figure: SubFigure, summary: LayerSummary, order: Sequence[int], *, columns: int, each: int) -> None:
    """A panel for every split, and one of percentages if classes are unknown; repeated for each column of classes."""
    splits = list(summary.present_in)
    widths = [2] * len(splits) + ([1] if summary.unknown else [])
    axes = figure.subplots(1, columns * len(widths), squeeze=False, width_ratios=widths * columns)[0]
    for column in range(columns):
        shown = order[column * each : (column + 1) * each]
        panels = axes[column * len(widths) : (column + 1) * len(widths)]
        for split, bars in zip(splits, panels, strict=False):
            _draw_counts(bars, summary, shown, split=split, each=each)
        for bars in panels[1:]:
            bars.set_yticks([])
        names = [summary.name_of(c) for c in shown]
        panels[0].set_yticks(range(len(shown)), names, fontsize=7, **_AS_WRITTEN)
        if summary.unknown:
            _draw_shares(panels[-1], summary, shown, each=each)
    if summary.unknown:
        handles, labels = axes[len(widths) - 1].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7, ncols=len(labels), loc="outside lower right", frameon=False)


def _draw_counts(axes: Axes, summary: LayerSummary, shown: Sequence[int], *, split: str, each: int) -> None:
    """Images of each class in a split; the axis fits that split's most frequent class, in every column."""
    of_split = summary.present_in[split]
    most, counts = max(1, *of_split.values(), 1), [of_split[c] for c in shown]
    axes.barh(range(len(shown)), counts, color=_PRESENT, height=0.8)
    for place, count in enumerate(counts):
        axes.text(count + 0.015 * most, place, str(count), va="center", fontsize=6, **_AS_WRITTEN)
    axes.set_xlim(0, most * 1.25)  # room for the largest number
    axes.set_ylim(each - 0.4, -0.6)
    axes.set_title(f"{split}: images of each class", fontsize=8, **_AS_WRITTEN)
    axes.tick_params(axis="x", labelsize=7)


def _draw_shares(axes: Axes, summary: LayerSummary, shown: Sequence[int], *, each: int) -> None:
    total, left = max(1, summary.num_records), [0.0] * len(shown)
    parts = (
        ("present", _PRESENT, summary.present.__getitem__),
        ("absent", _ABSENT, summary.absent),
        ("unknown", _UNKNOWN, summary.unknown.__getitem__),
    )
    for label, colour, count_of in parts:
        shares = [100 * count_of(c) / total for c in shown]
        axes.barh(range(len(shown)), shares, left=left, color=colour, height=0.8, label=label)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_xlim(0, 100)
    axes.set_ylim(each - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_title("% of all images", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _draw_sizes(axes: Axes, values: np.ndarray, *, label: str) -> None:
    if len(values):
        counts, edges = np.histogram(values, bins=60)
        axes.stairs(counts, edges, fill=True, color=_PRESENT)
        axes.axvline(float(np.median(values)), color="#ed553b", linewidth=0.8, linestyle="--")
    axes.set_xlabel(label, fontsize=8, **_AS_WRITTEN)
    axes.tick_params(labelsize=7)


def draw_confusion(
    share_RC: Sequence[Sequence[float]], *, truth: Sequence[str], prediction: Sequence[str], title: str
) -> bytes:
    """A PNG: a confusion matrix, rows are true classes and columns predictions, as fractions of each row's pixels.

    A row of NaN (a class that is absent from the ground truth) is left empty.
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
            if value >= 0.5:  # smaller values would be shown as 0, and NaN is not drawn
                colour = "white" if value > 55 else "black"
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour, **_AS_WRITTEN
                )
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(prediction)), prediction, fontsize=8, **turned, **_AS_WRITTEN)
    axes.set_yticks(range(len(truth)), truth, fontsize=8, **_AS_WRITTEN)
    axes.set_xlabel("prediction", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    axes.set_title(title, fontsize=9, **_AS_WRITTEN)
    scale = figure.colorbar(drawn, ax=axes, shrink=0.8)
    scale.set_label("% of the true class's pixels", fontsize=8)
    scale.ax.tick_params(labelsize=7)
    return _png(figure)


def draw_importance(
    shares: Mapping[str, float], *, values: Mapping[str, Sequence[str]], mean_iou: Sequence[float], title: str
) -> bytes:
    """A PNG: a bar for every setting, and beside it the mean IoU of every trial at each value of the setting.

    `shares`: setting -> share, in the order of the rows. `values`: setting -> its value in every trial, as text, and
    `mean_iou` of these trials, as fractions. Numbers are in their order, other values in that of the trials.
    """
    from matplotlib.figure import Figure  # takes seconds to import

    rows = len(shares)
    figure = Figure(figsize=(8, 1.0 + 1.5 * rows), dpi=110, layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False, width_ratios=(2, 3))
    figure.suptitle(title, fontsize=9, **_AS_WRITTEN)
    for (name, share), (bar, points) in zip(shares.items(), panels, strict=True):
        bar.barh([0], [100 * share], height=0.5, color="#20639b")
        bar.set_xlim(0, 118)
        bar.set_xticks([0, 50, 100])
        bar.tick_params(axis="x", labelsize=7)
        bar.set_ylim(-0.6, 0.9)
        bar.set_yticks([])
        bar.set_title(name.replace(".", ".\n", 1), fontsize=8, loc="left", **_AS_WRITTEN)
        bar.text(100 * share + 2, 0, f"{100 * share:.0f} %", va="center", fontsize=8, **_AS_WRITTEN)
        shown = _ordered(values[name])
        points.scatter([shown.index(one) for one in values[name]], [100 * one for one in mean_iou], s=12, alpha=0.7)
        every = max(1, -(-len(shown) // 10))
        places = range(0, len(shown), every)
        points.set_xticks(list(places), [shown[at] for at in places], fontsize=7, **_AS_WRITTEN)
        points.set_xlim(-0.5, len(shown) - 0.5)
        points.tick_params(axis="y", labelsize=7)
        points.grid(alpha=0.3)
        points.set_ylabel("mean IoU, %", fontsize=7)
    panels[-1][0].set_xlabel("share of the differences that it explains, %", fontsize=8)
    panels[-1][1].set_xlabel("a point for every trial, by value", fontsize=8)
    return _png(figure)


def _ordered(values: Sequence[str]) -> list[str]:
    different = list(dict.fromkeys(values))
    try:
        return sorted(different, key=float)
    except ValueError:
        return different


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without date and version in the file, the same data give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
