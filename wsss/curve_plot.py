"""Mean IoU over the background threshold, drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence


def draw_curve(mean_iou_N: Sequence[float], *, chosen: Sequence[float], title: str) -> bytes:
    """A PNG: the curve over thresholds i / N, and the thresholds chosen on either half."""
    from matplotlib.figure import Figure  # takes seconds to import

    figure = Figure(figsize=(5, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [i / len(mean_iou_N) for i in range(len(mean_iou_N))], [100 * value for value in mean_iou_N], color="#20639b"
    )
    for threshold in chosen:
        axes.axvline(threshold, color="#ed553b", linewidth=0.8, linestyle="--")
    axes.set_xlabel("background threshold (dashed: chosen on either half)")
    axes.set_ylabel("mean IoU, %")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    # Without a date and version in the file, the same curve gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
