from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.images import encode_png
from shards.inspect import info, lint, preview
from shards.layer import Layer, ShardError
from shards.records import Missing, Sample
from shards.writer import write_shard
from tests.shards.example_records import sample, seed_record


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    made = Layer(tmp_path / "samples", "sample")
    write_shard(made, "train-000000", [sample("a", 1), sample("b", 2), Missing(key="x", reason="gone")])
    write_shard(made, "val-000000", [sample("c", 3, masked=False)])
    made.complete(["train-000000", "val-000000"])
    return made


def test_info_counts(layer: Layer) -> None:
    lines = list(info(layer.path))
    assert lines[0] == f"{layer.path}: sample records"
    assert lines[1].startswith("train: 2 records in 1 shards, 0.0 MB, 1 missing, 2 with a mask")
    assert lines[2].startswith("val: 1 records in 1 shards") and lines[2].endswith("0 missing, 0 with a mask")
    assert [line.split()[:3] for line in lines[3:]] == [["class", "2:", "3"], ["class", "5:", "3"]]


def test_sound_layer_has_no_fault(layer: Layer) -> None:
    assert list(lint(layer.path)) == []


def test_lint_finds_every_flipped_byte(layer: Layer) -> None:
    tar = layer.tar_path("train-000000")
    whole = tar.read_bytes()
    for place in (0, 700, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        tar.write_bytes(damaged)
        assert list(lint(layer.path)) == [
            f"{tar}: its bytes are not the ones that were written; delete it and run its stage again"
        ]


def test_lint_finds_cut_and_missing_shards(layer: Layer) -> None:
    tar = layer.tar_path("train-000000")
    tar.write_bytes(tar.read_bytes()[:-1])
    layer.row_path("val-000000").unlink()
    first, second = lint(layer.path)
    assert "train-000000.tar is cut short" in first
    assert "val-000000.tar is not finished" in second


def test_lint_finds_records_that_disagree(tmp_path: Path) -> None:
    layer, small = Layer(tmp_path, "sample"), np.zeros((5, 3), np.uint8)
    records = [
        Sample(key="size", encoded=encode_png(small), size=(3, 5), classes=(1,)),
        Sample(key="mask", encoded=encode_png(small), size=(5, 3), classes=(1,), mask=small.T.copy()),
        Sample(key="image", encoded=b"nothing", size=(5, 3), classes=(1,)),
    ]
    write_shard(layer, "train-000000", records)
    layer.complete(["train-000000"])
    assert list(lint(layer.path)) == [
        "train-000000: size: decodes to (5, 3), its record says (3, 5)",
        "train-000000: mask: its mask is (3, 5), its image (5, 3)",
        "train-000000: image: not a readable image: of no known format",
    ]


def test_preview_is_a_picture(layer: Layer) -> None:
    with Image.open(io.BytesIO(preview(layer.path))) as image:
        assert image.format == "PNG" and image.size == (8 * 128, 128)
        assert len(np.unique(np.asarray(image))) > 50


def test_folders_that_are_no_samples(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"holds no complete layer \(index.json is missing or damaged\)"):
        list(info(tmp_path))
    layer = Layer(tmp_path, "seed")
    write_shard(layer, "val-000000", [seed_record("a")])
    layer.complete(["val-000000"])
    with pytest.raises(ValueError, match="holds seed records; a preview is drawn of samples"):
        preview(tmp_path)
