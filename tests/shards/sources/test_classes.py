from __future__ import annotations

import numpy as np
import pytest

from shards.records import BadSampleError
from shards.sources.classes import ChosenClasses
from shards.sources.coco_masks import Outline, instances_values, panoptic_values
from shards.taxonomy import Taxonomy

MANY = Taxonomy(tuple(f"c{number}" for number in range(1, 301)))
WIDE = 65_535


def test_masks_of_many_classes_have_16_bits() -> None:
    values = np.array([[0, 1, 255, 300, WIDE]], np.uint16)
    mask = ChosenClasses(every=MANY).mask(values, name="a.png")
    assert mask.dtype == np.uint16 and mask.tolist() == values.tolist()
    few = ChosenClasses(every=MANY, names=("c300", "c1"), other_classes_as=255).mask(values, name="a.png")
    assert few.dtype == np.uint8 and few.tolist() == [[0, 2, 255, 1, 255]]
    background = ChosenClasses(every=MANY, names=("c300", "c1")).mask(values, name="a.png")
    assert background.tolist() == [[0, 2, 0, 1, 255]]


def test_a_mask_of_8_bits_among_many_classes_is_refused() -> None:
    """Its 255 could be a class or ignored."""
    with pytest.raises(
        BadSampleError, match=r"the mask b.png has 8 bits, but the masks of 300 classes have 16: save all"
    ):
        ChosenClasses(every=MANY).mask(np.zeros((2, 3), np.uint8), name="b.png")


@pytest.mark.parametrize("value", [301, 1000, 65_534])
def test_values_that_are_no_class(value: int) -> None:
    with pytest.raises(BadSampleError, match=rf"b.png holds the value {value}, .* allowed are 0..300 and 65535"):
        ChosenClasses(every=MANY).mask(np.array([[3, value]], np.uint16), name="b.png")


def test_masks_drawn_from_annotations_of_many_categories() -> None:
    labels = ChosenClasses(every=MANY).stored
    part = np.array([[True, False, True]])
    drawn = instances_values([Outline(300, False, part), Outline(WIDE, True, ~part)], size=(1, 3), labels=labels)
    assert drawn.dtype == np.uint16 and drawn.tolist() == [[300, WIDE, 300]]
    colours = np.array([[[0, 0, 0], [7, 0, 0]]], np.uint8)
    assert panoptic_values(colours, {7: 256}, labels=labels).tolist() == [[WIDE, 256]]
