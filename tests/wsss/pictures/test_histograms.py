from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from shards.summary import LayerSummary
from wsss.pictures import plots

NAMES = ("cat", "Ba$$in", "$\\frac$")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, beside their PNGs."""
    kept: list[Any] = []
    real = plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: (kept.append(figure), real(figure))[1])
    return kept


def summary(*, unknown: bool) -> LayerSummary:
    made = LayerSummary("built", "sample", NAMES)
    for split, counts in (("train", {1: 900, 2: 30}), ("val", {1: 2, 3: 7})):
        made.splits[split] = Counter(records=1000)
        made.present_in[split] = Counter(counts)
        made.present.update(counts)
    if unknown:
        made.unknown[1] = 5
    return made


def bars(axes: Any) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


@pytest.mark.parametrize("unknown", [False, True])
def test_every_split_by_itself_and_the_length_of_a_bar_is_its_number(figures: list[Any], unknown: bool) -> None:
    assert plots.draw_layer(summary(unknown=unknown), title="a $$ b").startswith(b"\x89PNG")
    above = figures[0].subfigs[0].axes
    train, val, *shares = above
    assert [axes.get_title() for axes in (train, val)] == ["train: images of each class", "val: images of each class"]
    assert (bars(train), bars(val)) == ([900, 30, 0], [2, 0, 7]), "the most frequent class of all splits first"
    for axes in (train, val):
        assert axes.get_xscale() == "linear" and axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > max(bars(axes))
    assert [label.get_text() for label in train.get_yticklabels()] == [*NAMES]
    assert bool(shares) == unknown


def test_many_classes_stand_beside_each_other(figures: list[Any]) -> None:
    made = LayerSummary("built", "sample", tuple(f"c{number}" for number in range(120)))
    made.present_in = {"train": Counter({number: number for number in range(1, 121)})}
    made.present.update(made.present_in["train"])
    plots.draw_layer(made, title="built")
    columns = figures[0].subfigs[0].axes
    assert [len(bars(axes)) for axes in columns] == [40, 40, 40]
    assert len({axes.get_xlim() for axes in columns}) == 1, "one scale for all columns of a split"


def test_a_layer_without_samples_is_drawn(figures: list[Any]) -> None:
    plots.draw_layer(LayerSummary("seeds", "seed", None), title="seeds")
    assert len(figures[0].subfigs[1].axes) == 2


def test_training_and_validation_images(figures: list[Any]) -> None:
    plots.draw_class_histogram([30, 900, 0], drawn_C=[100, 100, 0], names=NAMES, validation_C=[2, 7, 1])
    training, validation = figures[0].axes
    for axes, counts in ((training, [900, 30, 0]), (validation, [7, 2, 1])):
        assert axes.get_yscale() == "linear" and axes.get_ylim()[0] == 0
        assert [bar.get_height() for bar in axes.patches[:3]] == counts
    assert [axes.get_title() for axes in figures[0].axes] == [
        "training images of each class",
        "validation images of each class",
    ]
    plots.draw_class_histogram([30], drawn_C=[30.0], names=("cat",))
    assert len(figures[1].axes) == 1
