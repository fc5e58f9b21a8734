from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.boxes import boxes_of_mask
from shards.codec import decode, encode
from shards.images import decode_label_png, encode_png, image_mode
from shards.label_type import BYTE, MAX_CLASSES, WIDE, class_ids, ignore_of, label_type, type_of
from shards.layer import Layer
from shards.lint import lint
from shards.mask_check import MaskCheck, mask_values
from shards.opened import opened
from shards.ranges import from_ranges
from shards.records import Box, InstanceLabel, Prediction, PseudoLabel, Record, SeedRecord, grid_size
from shards.taxonomy import colours_of, palette
from shards.writer import write_shard
from tests.shards.example_records import SIZE, assert_equal, sample

EVERY = np.arange(247, dtype=np.uint16).reshape(SIZE) * 267
"""u16[13, 19]: values from 0 to 65,682 - 65,536."""


@pytest.mark.parametrize(
    ("num_classes", "dtype", "ignore"),
    [(1, np.uint8, 255), (254, np.uint8, 255), (255, np.uint16, 65_535), (919, np.uint16, 65_535)],
)
def test_the_number_of_classes_decides(num_classes: int, dtype: type, ignore: int) -> None:
    found = label_type(num_classes)
    assert (found.dtype, found.ignore) == (np.dtype(dtype), ignore)
    assert ignore_of(np.zeros((2, 3), dtype)) == ignore and type_of(np.zeros((2, 3), dtype)) == found


def test_more_classes_than_16_bits_hold() -> None:
    assert label_type(MAX_CLASSES) == WIDE and MAX_CLASSES == 65_534
    with pytest.raises(ValueError, match="65535 classes: allowed are at most 65534, since label maps have 16 bits"):
        label_type(65_535)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_label_maps_of_other_types_are_refused(dtype: type) -> None:
    record = PseudoLabel(key="a", mask=np.full(SIZE, 65_536, dtype), confidence=np.zeros(grid_size(SIZE), np.uint8))
    with pytest.raises(
        ValueError, match=r"a label map has the type .*; allowed are uint8 \(up to 254 classes\) and ui"
    ):
        encode(record)


def wide_records() -> list[Record]:
    confidence = np.zeros(grid_size(SIZE), np.uint8)
    low = EVERY % 7  # fits in a byte, and still has 16 bits
    return [
        replace(sample("a"), mask=EVERY),
        replace(sample("a"), mask=low),
        SeedRecord(key="a", label=EVERY[::-1]),
        PseudoLabel(key="a", mask=EVERY, confidence=confidence),
        Prediction(key="a", mask=low, confidence=confidence, ablation={"none": EVERY}),
    ]


@pytest.mark.parametrize("record", wide_records(), ids=lambda record: type(record).__name__)
def test_16_bits_are_stored_exactly(record: Record) -> None:
    members = encode(record)
    pngs = [data for name, data in members.items() if name.startswith(("mask", "label", "ablation"))]
    assert pngs and all(data[24] == 16 for data in pngs)
    assert_equal(decode(record.kind, "a", members), record)
    assert encode(decode(record.kind, "a", members)) == members


def test_decoding_says_the_type_by_the_depth() -> None:
    for mask in (EVERY, EVERY % 7, (EVERY % 7).astype(np.uint8)):
        found = decode_label_png(encode_png(mask))
        assert found.dtype == mask.dtype
        np.testing.assert_array_equal(found, mask)
    assert image_mode(encode_png(EVERY)) == "I;16"


def test_instances_of_classes_above_a_byte() -> None:
    instances = np.array([[0, 1, 2]], np.uint16)
    for classes, dtype in (((254, 3), np.uint8), ((255, 3), np.uint16), ((40_000, 3), np.uint16)):
        label = InstanceLabel(key="a", instances=instances, classes=class_ids(classes), scores=np.ones(2, np.float16))
        assert label.mask.dtype == dtype and label.mask.tolist() == [[0, *classes]]
    assert class_ids([32_767]).dtype == np.int16 and class_ids([32_768]).dtype == np.int32


def test_a_layer_has_label_maps_of_one_type(tmp_path: Path) -> None:
    layer = Layer(tmp_path / "labels", "pseudo_label")
    narrow, wide = (
        PseudoLabel(key=key, mask=np.zeros(SIZE, dtype), confidence=np.zeros(grid_size(SIZE), np.uint8))
        for key, dtype in (("a", np.uint8), ("b", np.uint16))
    )
    with pytest.raises(ValueError, match=r"val-000000: the label map of 'a' has 8 bits and that of 'b' has 16; all"):
        write_shard(layer, "val-000000", [wide, narrow])
    assert not layer.tar_path("val-000000").exists()
    write_shard(layer, "val-000000", [narrow])


@pytest.mark.parametrize(("num_names", "faults"), [(300, 0), (5, 1)])
def test_lint_compares_the_type_with_the_classes(tmp_path: Path, num_names: int, faults: int) -> None:
    layer = Layer(tmp_path / "samples", "sample")
    mask = np.where(EVERY % 5 == 0, 5, 2).astype(np.uint16)
    write_shard(layer, "val-000000", [replace(sample("a"), mask=mask)])
    layer.complete(["val-000000"], classes=tuple(f"c{number}" for number in range(num_names)))
    with opened(str(layer.path)) as found:
        lines = list(lint(found))
    wanted = "val-000000: a: its label map has 16 bits, but those of this layer have 8"
    assert lines == [wanted] * faults


def test_ignored_pixels_of_confident_masks_and_boxes() -> None:
    mask = np.full(SIZE, 255, np.uint16)
    mask[:, 10:] = 65_535
    label = PseudoLabel(key="a", mask=mask, confidence=np.full(grid_size(SIZE), 100, np.uint8))
    assert set(np.unique(label.confident_mask(0.5)).tolist()) == {65_535}
    assert label.confident_mask(0.5).dtype == np.uint16
    assert boxes_of_mask(mask) == (Box(255, 0, 0, 13, 10),), "255 is a class, 65,535 is none"


def test_values_of_a_mask_are_compared_with_its_labels() -> None:
    mask = np.array([[0, 255, 65_535]], np.uint16)
    assert from_ranges(mask_values(mask)) == [0, 255, 65_535]
    check = MaskCheck.of_classes(300)
    check.add((255,), "", mask_values(mask), {})
    check.add((7,), "", mask_values(mask[:, [0, 2]]), {})
    assert (check.masks, check.mismatched, check.lacking, check.only_ignored) == (2, 1, 1, 1)


def test_colours_of_many_classes() -> None:
    wide = palette(np.dtype(np.uint16))
    assert len(np.unique(wide, axis=0)) == 65_536
    np.testing.assert_array_equal(wide[:256], palette())
    np.testing.assert_array_equal(colours_of(EVERY), wide[EVERY])


def test_the_type_is_required() -> None:
    with pytest.raises(
        ValueError, match=r"mask a has 8 bits \(uint8\), but label maps of 300 classes have 16 \(uint16"
    ):
        label_type(300).require(np.zeros((2, 3), np.uint8), name="mask a", num_classes=300)
    assert BYTE.bits == 8 and WIDE.bits == 16
