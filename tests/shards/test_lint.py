from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.images import encode_png
from shards.layer import AGAIN, Layer
from shards.lint import lint
from shards.manifest_entry import RecordEntries, RecordEntry
from shards.mask_check import MaskCheck
from shards.opened import opened
from shards.records import Box, Missing, Sample
from shards.remote_tars import RemoteTars
from shards.storage import Retries
from shards.writer import write_shard
from tests.shards.example_records import one_of_each, sample, seed_record


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    made = Layer(tmp_path / "samples", "sample")
    write_shard(made, "train-000000", [sample("a", 1), sample("b", 2), Missing(key="x", reason="gone")])
    write_shard(made, "val-000000", [sample("c", 3, masked=False)])
    made.complete(["train-000000", "val-000000"])
    return made


def faults(layer: Layer, tars: RemoteTars | None = None) -> list[str]:
    with opened(str(layer.path), tars=tars) as one:
        return list(lint(one))


def test_sound_layers_have_no_fault(layer: Layer, tmp_path: Path) -> None:
    assert faults(layer) == []
    for number, record in enumerate(one_of_each("k")):
        other = Layer(tmp_path / str(number), record.kind)
        write_shard(other, "val-000000", [record])
        other.complete(["val-000000"])
        assert faults(other) == []


def test_every_flipped_byte_is_found(layer: Layer) -> None:
    tar = layer.tar_path("train-000000")
    whole = tar.read_bytes()
    for place in (0, 700, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        tar.write_bytes(damaged)
        assert faults(layer) == [f"{tar}: its content differs from what was written; delete it and {AGAIN}"]


def test_cut_and_missing_shards_are_found_and_the_others_are_read(layer: Layer) -> None:
    tar = layer.tar_path("train-000000")
    tar.write_bytes(tar.read_bytes()[:-1])
    layer.manifest_path("val-000000").unlink()
    first, second = faults(layer)
    assert "train-000000.tar is truncated" in first
    assert "val-000000.tar is not finished" in second


def test_records_that_disagree_with_themselves(tmp_path: Path) -> None:
    layer, small = Layer(tmp_path, "sample"), np.zeros((5, 3), np.uint8)
    records = [
        Sample(key="size", encoded=encode_png(small), size=(3, 5), classes=(1,)),
        Sample(key="mask", encoded=encode_png(small + 1), size=(5, 3), classes=(1,), mask=small.T + 1),
        Sample(key="map", encoded=encode_png(small + 2), size=(5, 3), classes=(1,), saliency=small.T.copy()),
        Sample(key="box", encoded=encode_png(small + 3), size=(5, 3), classes=(1,), boxes=(Box(1, 0, 0, 6, 2),)),
        Sample(key="image", encoded=b"nothing", size=(5, 3), classes=(1,)),
        Sample(key="both", encoded=encode_png(small + 4), size=(5, 3), classes=(1, 2), unknown=(2, 3)),
    ]
    write_shard(layer, "train-000000", records)
    layer.complete(["train-000000"])
    assert faults(layer) == [
        "train-000000: size: decodes to (5, 3), but its record says (3, 5)",
        "train-000000: mask: its mask is (3, 5), its image (5, 3)",
        "train-000000: map: its saliency map is (3, 5), its image (5, 3)",
        "train-000000: box: Box(class_id=1, top=0, left=0, bottom=6, right=2) is not inside its image of (5, 3)",
        "train-000000: image: not a readable image: unknown format",
        "train-000000: both: class 2 is both present and unknown",
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda e: replace(e, key="z"), "train-000000: contains 'a', but its manifest entry lists 'z'"),
        (
            lambda e: replace(e, metadata=e.metadata | {"classes": [1]}),
            "train-000000: a: classes is [1] in the manifest entry, but [2, 5] in the record",
        ),
        (
            lambda e: replace(e, metadata=e.metadata | {"unknown": "4"}),
            "train-000000: a: unknown is 4 in the manifest entry, but",
        ),
        (lambda e: replace(e, digest="0" * 32), "train-000000: a: its digest or offset in the manifest entry does not"),
        (lambda e: replace(e, offset=512), "train-000000: a: its digest or offset in the manifest entry does not"),
    ],
)
def test_rows_that_disagree_with_the_tar(
    layer: Layer, change: Callable[[RecordEntry], RecordEntry], fault: str
) -> None:
    row = layer.manifest_entry("train-000000")
    first, *others = row.entries
    layer.manifest_path("train-000000").write_bytes(
        replace(row, entries=RecordEntries.of([change(first), *others])).to_bytes()
    )
    (found,) = faults(layer)
    assert found.startswith(fault)


def test_a_row_of_fewer_records_and_an_index_of_another_tar(layer: Layer) -> None:
    row = layer.manifest_entry("train-000000")
    layer.manifest_path("train-000000").write_bytes(replace(row, entries=RecordEntries.of(row.entries[:1])).to_bytes())
    first, second = faults(layer)
    assert first == f"train-000000: its manifest entry lists 1 records, the index 2; {AGAIN}"
    assert "holds 2 records, but its manifest entry lists 1" in second
    write_shard(layer, "train-000000", [sample("a", 1)])
    assert faults(layer) == [
        "train-000000: its manifest entry and the index give different hashes of the tar; " + AGAIN,
        f"train-000000: its manifest entry lists 1 records, the index 2; {AGAIN}",
    ]


def test_facts_of_an_older_row_are_not_missed(layer: Layer) -> None:
    row = layer.manifest_entry("train-000000")
    older = [replace(e, metadata={k: v for k, v in e.metadata.items() if k != "unknown"}) for e in row.entries]
    layer.manifest_path("train-000000").write_bytes(replace(row, entries=RecordEntries.of(older)).to_bytes())
    assert faults(layer) == []


def test_the_same_image_twice_also_across_splits(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "sample")
    images = {"train-000000": [1, 2, 3], "train-000001": [4, 2, *[5] * 10], "val-000000": [6, 1, 2], "test-000000": [7]}
    for shard, seeds in images.items():
        write_shard(layer, shard, [sample(f"{shard}/{n}", seed) for n, seed in enumerate(seeds)])
    layer.complete(list(images))
    of_five = "; ".join(f"train-000001: train-000001/{n}" for n in range(2, 10))
    across = "in train and val (an image used for evaluation must not be used for training)"
    assert faults(layer) == [
        f"the same image 2 times, {across}: train-000000: train-000000/0; val-000000: val-000000/1",
        f"the same image 3 times, {across}: train-000000: train-000000/1; train-000001: train-000001/1; "
        "val-000000: val-000000/2",
        f"the same image 10 times, in train: {of_five}; and 2 more",
    ]


def test_tars_that_lie_elsewhere(layer: Layer, tmp_path: Path) -> None:
    """As in a run whose shards were built before: rows and index here, tars there."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for tar in layer.path.glob("*.tar"):
        tar.rename(elsewhere / tar.name)
    tars = RemoteTars(address=str(elsewhere), retries=Retries(attempts=1))
    assert all("does not exist" in fault for fault in faults(layer))
    assert faults(layer, tars) == []
    whole = (elsewhere / "val-000000.tar").read_bytes()
    (elsewhere / "val-000000.tar").write_bytes(whole[:-1] + b"x")
    (elsewhere / "train-000000.tar").unlink()
    first, second = faults(layer, tars)
    assert first.startswith(f"{elsewhere}/train-000000.tar: No such file")
    assert second.startswith(f"{elsewhere}/val-000000.tar: its content differs from what was written")


def test_what_holds_nothing_is_reported(tmp_path: Path) -> None:
    empty, bare = Layer(tmp_path / "empty", "sample"), Layer(tmp_path / "bare", "sample")
    write_shard(empty, "train-000000", [])
    empty.complete(["train-000000"])
    bare.complete([])
    assert faults(empty) == ["train-000000: contains no records"]
    assert faults(bare) == ["the layer has no shards"]


def test_masks_that_contradict_the_labels_are_a_fault_where_the_cause_is_known(tmp_path: Path) -> None:
    layer, mask = Layer(tmp_path, "sample"), np.zeros((13, 19), np.uint8)
    mask[2:5, 3:9] = 2
    records = [replace(sample(f"{n}", n), classes=(2,), unknown=(), mask=mask) for n in range(11)]
    write_shard(layer, "train-000000", [*records, replace(sample("x", 11), classes=(1, 2), unknown=(), mask=mask)])
    layer.complete(["train-000000"], classes=("cat", "dog"))
    checks: dict[str, MaskCheck] = {}
    with opened(str(layer.path)) as one:
        assert list(lint(one, checks=checks)) == []
    assert (checks["train"].masks, checks["train"].lacking) == (12, 1)
    write_shard(
        layer, "train-000000", [replace(record, classes=(1,), mask=mask * 127 + mask // 2) for record in records]
    )
    layer.complete(["train-000000"], classes=("cat", "dog"))
    assert [fault[:49] for fault in faults(layer)] == ["likely cause: the masks contain only 0 and 255, a"]


def test_progress_is_reported_shard_by_shard(layer: Layer) -> None:
    reported: list[tuple[int, int]] = []
    with opened(str(layer.path)) as one:
        list(lint(one, progress=lambda done, total: reported.append((done, total))))
    assert reported == [(0, 2), (1, 2), (2, 2)]


def test_layers_without_images(tmp_path: Path) -> None:
    layer = Layer(tmp_path, "seed")
    write_shard(layer, "val-000000", [seed_record("a"), seed_record("b")])
    layer.complete(["val-000000"])
    assert faults(layer) == []


def test_an_index_of_another_count_is_a_fault_and_not_a_complete_layer(layer: Layer) -> None:
    path = layer.path / "index.json"
    index = json.loads(path.read_bytes())
    index["counts"]["train-000000"] = 3
    path.write_text(json.dumps(index))
    assert faults(layer) == [f"train-000000: its manifest entry lists 2 records, the index 3; {AGAIN}"]
    assert not layer.is_complete(layer.shards())
