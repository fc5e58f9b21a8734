from __future__ import annotations

from collections import Counter

from shards.summary import LayerSummary
from wsss.pictures.plots import draw_class_histogram, draw_confusion, draw_curve, draw_importance, draw_layer

NAMES = ("Ba$$in", r"$\undefined{$", "x_1^2", r"\alpha", "50%", "[red]x[/]")
"""Matplotlib raises an error where it reads one of the first two as mathematics."""


def drawn(names: tuple[str, ...]) -> list[bytes]:
    """Every kind of figure with the user's words in all their places."""
    title, shares = " ".join(names), [[1 / len(names)] * len(names)] * len(names)
    summary = LayerSummary(title, "sample", names)
    summary.splits["train"] = Counter(shards=1, records=9)
    summary.present_in["train"] = Counter(range(1, len(names) + 1))
    summary.present.update(summary.present_in["train"])
    curves = {"mean_iou": [0.1, 0.2], "over_activation": [0.5, 0.4], "under_activation": [0.1, 0.2]}
    return [
        draw_class_histogram([3.0] * len(names), drawn_C=[2.0] * len(names), names=names),
        draw_confusion(shares, truth=names, prediction=names, title=title),
        draw_curve(**curves, chosen=[0.5], title=title),
        draw_layer(summary, title=title),
        draw_importance(
            {name: 1 / len(names) for name in names},
            values=dict.fromkeys(names, names[:2]),
            mean_iou=[0.25, 0.5],
            title=title,
        ),
    ]


def test_words_of_the_user_are_no_mathematics() -> None:
    for picture in drawn(NAMES):
        assert picture.startswith(b"\x89PNG")
