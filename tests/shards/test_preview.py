from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.layer import Layer
from shards.opened import opened
from shards.preview import CAPTION, COLUMNS, NUM_IMAGES, TILE, preview
from shards.records import Missing, Record
from shards.writer import write_shard
from tests.shards.example_records import sample, seed_record


def sheet_of(folder: Path, shards: dict[str, list[Record | Missing]], kind: str = "sample") -> np.ndarray:
    layer = Layer(folder, kind)
    for shard, records in shards.items():
        write_shard(layer, shard, records)
    layer.complete(list(shards))
    with opened(str(folder)) as one, Image.open(io.BytesIO(preview(one))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def tile(sheet: np.ndarray, number: int) -> np.ndarray:
    top, left = number // COLUMNS * (TILE + CAPTION), number % COLUMNS * TILE
    return sheet[top : top + TILE, left : left + TILE]


def test_a_few_images_are_all_shown(tmp_path: Path) -> None:
    shards: dict[str, list[Record | Missing]] = {
        "train-000000": [sample("a", 1), Missing(key="x", reason="gone"), sample("b", 2, masked=False)],
        "val-000000": [sample("c", 3)],
    }
    sheet = sheet_of(tmp_path, shards)
    assert sheet.shape == (TILE + CAPTION, COLUMNS * TILE, 3)
    np.testing.assert_array_equal(tile(sheet, 1)[:13, :19], sample("b", 2, masked=False).image)
    assert [bool((tile(sheet, n) != 255).any()) for n in range(5)] == [True, True, True, False, False]
    assert (sheet[TILE:, :TILE] < 128).any(), "there is a caption"


def test_many_are_drawn_from_all_over(tmp_path: Path) -> None:
    shards: dict[str, list[Record | Missing]] = {
        f"train-{s:06d}": [sample(f"{s}/{n}", 100 * s + n, masked=False) for n in range(20)] for s in range(8)
    }
    sheet = sheet_of(tmp_path, shards)
    assert sheet.shape[0] == NUM_IMAGES // COLUMNS * (TILE + CAPTION)
    for number in (0, 7, 39):
        expected = sample("k", 100 * (number * 4 // 20) + number * 4 % 20).image
        np.testing.assert_array_equal(tile(sheet, number)[:13, :19], expected)


def test_what_cannot_be_read_is_a_cross(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, {"train-000000": [replace(sample("a"), encoded=b""), sample("b")]})
    assert (tile(sheet, 0)[64, 63:66] == (255, 0, 0)).all(1).any()
    assert (tile(sheet, 1)[:13, :19] != 255).any()


def test_records_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds seed records; a preview needs a layer of samples"):
        sheet_of(tmp_path, {"val-000000": [seed_record("a")]}, kind="seed")
