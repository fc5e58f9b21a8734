from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.images import encode_png, image_mode
from shards.records import BadSampleError, Box, Sample
from shards.sources.ilsvrc_det import IlsvrcDetSource
from shards.sources.lid import LidSource
from shards.sources.source import forget_lists
from tests.shards.sources.ilsvrc_folder import ANT, ANTS, TRAIN, make_ilsvrc
from tests.shards.sources.lid_folder import ANNOTATIONS, DOG, IMAGES, PERSON, TEST, VAL, make_lid, mask_of
from tests.shards.sources.pictures import jpeg, put

ALL = tuple(range(1, 201))
RAW = f"{ANNOTATIONS}/track1_val_annotations_raw"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_lid(tmp_path / "lid")


def source(root: Path, **changes: Any) -> LidSource:
    return LidSource(package=root, **({"train": None, "splits": ("val", "test")} | changes))


def read(data: LidSource, split: str, number: int = 0) -> Sample:
    return data.read(data.list_split(split)[number])


@pytest.mark.parametrize("lists", ["", "LID_track1_imageset", IMAGES, f"{IMAGES}/{{split}}"])
def test_lists_in_any_of_their_places(tmp_path: Path, lists: str) -> None:
    data = source(make_lid(tmp_path / "lid", lists=lists))
    assert [listed.key for listed in data.list_split("val")] == VAL
    assert [listed.key for listed in data.list_split("test")] == TEST


def test_without_a_list_the_folder_is_listed(root: Path) -> None:
    (root / "val.txt").unlink()
    assert [listed.key for listed in source(root).list_split("val")] == sorted(VAL)
    shutil.rmtree(root / IMAGES / "val")
    (root / IMAGES / "val").mkdir()
    with pytest.raises(ValueError, match=r"contains no images \(.JPEG\), and there is no val.txt"):
        source(root).list_split("val")


def test_lists_that_differ(root: Path) -> None:
    put(root / IMAGES / "val.txt", f"{VAL[0]}\n")
    with pytest.raises(
        ValueError, match=r"val\.txt and .*val\.txt list different images; set lists\.val to the right one"
    ):
        source(root).list_split("val")
    chosen = source(root, lists={"val": root / IMAGES / "val.txt"})
    assert [listed.key for listed in chosen.list_split("val")] == VAL[:1]


@pytest.mark.parametrize("place", ["LID_track1", "LID_track1_imageset", ""])
def test_images_in_any_of_their_places(root: Path, place: str) -> None:
    for split in ("val", "test"):
        (root / place).mkdir(exist_ok=True)
        shutil.move(root / IMAGES / split, root / place / split)
    assert read(source(root), "val").source == f"{place}/val/{VAL[0]}.JPEG".lstrip("/")


@pytest.mark.parametrize("encoding", ["raw", "palette"])
def test_both_encodings_of_the_masks(tmp_path: Path, encoding: str) -> None:
    root = make_lid(tmp_path / "lid", encoding=encoding)
    stored = next((root / ANNOTATIONS).rglob("*.png")).read_bytes()
    assert image_mode(stored) == ("L" if encoding == "raw" else "P")
    sample = read(source(root), "val", 1)
    np.testing.assert_array_equal(sample.mask, mask_of(38, 53))
    assert (sample.classes, sample.unknown) == ((DOG, PERSON), ())
    assert (sample.key, sample.position, sample.source) == (VAL[1], 1, f"{IMAGES}/val/{VAL[1]}.JPEG")


def test_test_has_no_labels(root: Path) -> None:
    sample = read(source(root), "test")
    assert (sample.classes, sample.unknown, sample.mask, sample.boxes) == ((), ALL, None, None)


@pytest.mark.parametrize("masked", [("val",), ()])
def test_labels_of_val(root: Path, masked: tuple[str, ...]) -> None:
    reported = read(source(root, masked_splits=masked), "val")
    assert (reported.classes, reported.unknown, reported.mask is not None) == ((DOG, PERSON), (), bool(masked))
    not_reported = read(source(root, masked_splits=masked, val_labels="unknown"), "val")
    assert (not_reported.classes, not_reported.unknown, not_reported.mask is not None) == ((), ALL, bool(masked))


@pytest.mark.parametrize("other", [0, 255])
def test_subset_of_classes(root: Path, other: int) -> None:
    sample = read(source(root, class_names=("tick", "person"), other_classes_as=other, boxes="masks"), "val")
    assert sample.mask is not None and sample.classes == (2,) and sample.boxes == (Box(2, 3, 5, 11, 19),)
    assert (sample.mask[5, 7], sample.mask[12, 3], sample.mask[25, 25], sample.mask[0, 0]) == (2, 255, other, 0)
    assert read(source(root, class_names=("tick",)), "test").unknown == (1,)


def test_train_is_ilsvrcs(root: Path, tmp_path: Path) -> None:
    train = IlsvrcDetSource(root=make_ilsvrc(tmp_path / "det"), splits=("train",), boxes="annotations")
    data = source(root, train=train, splits=("train", "val"), boxes="annotations")
    assert len(data.list_split("train")) == len(TRAIN)
    listed = next(listed for listed in data.list_split("train") if listed.key == f"{ANTS}1")
    assert data.read(listed).classes == (ANT,) and data.read(listed).boxes
    assert read(data, "val").boxes is None, "val has no annotated boxes"
    assert data.signature() != source(root, splits=("val",)).signature()
    with pytest.raises(ValueError, match="LID has no split 'dev'; it has train, val, test"):
        data.list_split("dev")


@pytest.mark.parametrize("line", ["124 persons", "124", "201 unicorn", "x accordion", "124\tdog"])
def test_classes_in_another_order_are_refused(root: Path, line: str) -> None:
    path = root / ANNOTATIONS / "cat_ref.txt"
    path.write_text(f"0 background\n1 Accordion\n\n{line}\n")
    with pytest.raises(ValueError, match=r"cat_ref\.txt, line 4: .* of ILSVRC DET is .*would be misread"):
        source(root).list_split("val")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, f"cannot read the mask {RAW}/{VAL[0]}.png: No such file"),
        (np.full((37, 53), 201, np.uint8), r"holds the value 201, which is not a class id; allowed are 0..200 and 255"),
        (np.zeros((37, 54), np.uint8), "is 54x37, but its image is 53x37"),
        (np.zeros((37, 53, 3), np.uint8), "a mask must be a PNG of indices"),
    ],
)
def test_bad_masks_are_bad_samples(root: Path, mask: np.ndarray | None, message: str) -> None:
    path = root / RAW / f"{VAL[0]}.png"
    path.unlink() if mask is None else path.write_bytes(encode_png(mask))
    with pytest.raises(BadSampleError, match=message):
        read(source(root), "val")
    assert read(source(root), "val", 1).mask is not None


def test_mask_of_the_pixels_as_stored_turns_with_the_image(root: Path) -> None:
    put(root / IMAGES / "val" / f"{VAL[0]}.JPEG", jpeg(37, 53, seed=0, orientation=8))
    sample = read(source(root), "val")
    np.testing.assert_array_equal(sample.mask, np.rot90(mask_of(37, 53)))
    put(root / RAW / f"{VAL[0]}.png", encode_png(mask_of(53, 37)))
    np.testing.assert_array_equal(read(source(root), "val").mask, mask_of(53, 37))


def test_grey_images_and_missing_ones(root: Path) -> None:
    path = root / IMAGES / "val" / f"{VAL[0]}.JPEG"
    path.write_bytes(encode_png(np.full((37, 53), 9, np.uint8)))
    assert read(source(root), "val").image.shape == (37, 53, 3)
    path.unlink()
    with pytest.raises(BadSampleError, match=f"cannot read {IMAGES}/val/{VAL[0]}.JPEG: No such file"):
        read(source(root), "val")


def test_missing_folders(root: Path) -> None:
    shutil.rmtree(root / ANNOTATIONS)
    with pytest.raises(ValueError, match="contains no folder LID_track1_annotations/track1_val_annotations_raw or"):
        source(root).signature()
    assert source(root, splits=("test",)).signature()
    shutil.rmtree(root / IMAGES)
    with pytest.raises(ValueError, match="contains no folder LID_track1_imageset/LID_track1/test with the images"):
        source(root).list_split("test")


def test_signature(root: Path, tmp_path: Path) -> None:
    before = source(root).signature()
    assert source(shutil.copytree(root, tmp_path / "copy")).signature() == before
    changed = [before, source(root, splits=("val",)).signature()]
    (root / RAW / f"{VAL[0]}.png").unlink()
    changed.append(source(root).signature())
    put(root / "val.txt", f"{VAL[1]}\n{VAL[0]}\n")
    changed.append(source(root).signature())
    assert len(set(changed)) == len(changed)


def test_the_lists_of_train_are_forgotten_too(root: Path, tmp_path: Path) -> None:
    train = IlsvrcDetSource(root=make_ilsvrc(tmp_path / "det"), splits=("train",))
    data = source(root, train=train, splits=("train", "val"))
    keys = {split: data.list_split(split).keys[0].encode() for split in ("train", "val")}
    assert all(key in pickle.dumps(data) for key in keys.values())
    forget_lists(data)
    assert not any(key in pickle.dumps(data) for key in keys.values())
    assert data.list_split("train").keys[0].encode() == keys["train"]
