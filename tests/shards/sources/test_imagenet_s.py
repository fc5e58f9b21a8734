from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.id_colours import IGNORED, decode_id_png, id_colours
from shards.images import encode_png
from shards.records import BadSampleError, Sample
from shards.sources.imagenet_s import ImagenetSSource
from tests.shards.sources.imagenet_s_folder import OTHER, SHOWN, ids_of, make_imagenet_s, name_of, wnid
from tests.shards.sources.pictures import put

WIDE = 65_535


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet_s(tmp_path_factory.mktemp("data") / "ImageNetS300")


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ImageNetS300"))


def source(root: Path, **changes: Any) -> ImagenetSSource:
    return ImagenetSSource(root=root, **changes)


def read(data: ImagenetSSource, split: str, class_id: int, number: int = 0) -> Sample:
    key = f"{wnid(class_id)}/{name_of(split, class_id, number)}"
    return data.read(next(listed for listed in data.list_split(split) if listed.key == key))


def wanted(class_id: int, number: int) -> np.ndarray:
    ids = ids_of(class_id, number)
    return np.where(ids == IGNORED, WIDE, ids).astype(np.uint16)


def test_classes_number_the_folders(made: Path) -> None:
    assert source(made).taxonomy.names == tuple(wnid(class_id) for class_id in range(1, 301))


@pytest.mark.parametrize("class_id", SHOWN)
def test_a_validation_image(made: Path, class_id: int) -> None:
    sample = read(source(made), "val", class_id, 1)
    assert sample.mask is not None and sample.mask.dtype == np.uint16
    np.testing.assert_array_equal(sample.mask, wanted(class_id, 1))
    assert {0, class_id, OTHER, WIDE} == set(np.unique(sample.mask).tolist())
    assert (sample.classes, sample.unknown) == ((class_id,), ())
    assert sample.source == f"validation/{sample.key}.JPEG"


def test_training_images_have_a_mask_where_there_is_one(made: Path) -> None:
    data = source(made)
    assert [listed.key for listed in data.list_split("train")] == [
        f"{wnid(c)}/{name_of('train', c, n)}" for c in SHOWN for n in range(3)
    ]
    masks = [read(data, "train", 256, number).mask for number in range(3)]
    np.testing.assert_array_equal(masks[0], wanted(256, 0))
    assert masks[1] is None and masks[2] is None
    assert read(source(made, masked_splits=("val",)), "train", 256).mask is None


def test_test_images_have_neither_labels_nor_masks(made: Path) -> None:
    sample = read(source(made), "test", 255)
    assert (sample.classes, sample.unknown, sample.mask) == ((), tuple(range(1, 301)), None)


def test_a_subset_of_few_classes_has_masks_of_bytes(made: Path) -> None:
    names = (wnid(300), wnid(OTHER))
    sample = read(source(made, class_names=names), "val", 300, 1)
    ids = ids_of(300, 1)
    expected = np.select([ids == 300, ids == OTHER, ids == IGNORED], [1, 2, 255], 0)
    assert sample.mask is not None and sample.mask.dtype == np.uint8 and sample.classes == (1,)
    np.testing.assert_array_equal(sample.mask, expected)
    other = read(source(made, class_names=names, other_classes_as=255), "val", 255, 1)
    assert other.mask is not None and other.classes == ()
    assert set(np.unique(other.mask).tolist()) == {0, 2, 255}


def test_fifty_classes_have_masks_of_bytes(tmp_path: Path) -> None:
    root = make_imagenet_s(tmp_path / "ImageNetS50", num_classes=50, shown=(3, 50))
    sample = read(source(root), "val", 50)
    assert sample.mask is not None and sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.mask, np.where(ids_of(50, 0) == IGNORED, 255, ids_of(50, 0)))


def test_names_from_a_list_of_more_classes(root: Path) -> None:
    lines = [f"{wnid(c)} {'crane' if c in (3, 255) else f'thing {c}'}, other words" for c in range(320, 0, -1)]
    put(root / "LOC_synset_mapping.txt", "\n".join(lines))
    names = source(root, class_list=root / "LOC_synset_mapping.txt").taxonomy.names
    assert names[2] == f"crane ({wnid(3)})" and names[254] == f"crane ({wnid(255)})" and names[299] == "thing 300"
    put(root / "short.txt", f"{wnid(1)} one\n")
    with pytest.raises(ValueError, match=rf"short.txt does not list the class {wnid(2)} \(299 such\)"):
        _ = source(root, class_list=root / "short.txt").taxonomy


def test_a_list_in_the_form_of_the_data_set(root: Path) -> None:
    key = f"{wnid(255)}/{name_of('val', 255, 1)}"
    put(root / "val.txt", f"{key}.JPEG {key}.png\n")
    assert [one.key for one in source(root, lists={"val": root / "val.txt"}).list_split("val")] == [key]
    put(root / "bad.txt", "n99999999/some.JPEG\n")
    with pytest.raises(ValueError, match=r"names 'n99999999/some', which is in no folder of a class"):
        source(root, lists={"val": root / "bad.txt"}).list_split("val")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.__setitem__((4, 5, 2), 9), r"a pixel has B = 9; allowed: 0, since a class id is R \+ 256 G"),
        (lambda c: c.__setitem__((4, 5), (301 % 256, 1, 0)), r"holds the class id 301; allowed are 0\.\.300 and 1000"),
        (lambda c: c.__setitem__((4, 5), (255, 255, 0)), r"holds the class id 65535; allowed are 0\.\.300 and 1000"),
    ],
)
def test_masks_that_are_refused(root: Path, change: Any, reason: str) -> None:
    path = root / "validation-segmentation" / wnid(255) / f"{name_of('val', 255, 0)}.png"
    colours = id_colours(ids_of(255, 0))
    change(colours)
    path.write_bytes(encode_png(colours))
    with pytest.raises(BadSampleError, match=rf"{path.name}.*{reason}"):
        read(source(root), "val", 255)


def test_a_mask_of_another_kind_and_a_missing_one(root: Path) -> None:
    path = root / "validation-segmentation" / wnid(255) / f"{name_of('val', 255, 0)}.png"
    path.write_bytes(encode_png(ids_of(255, 0)))
    with pytest.raises(BadSampleError, match=rf"cannot read the mask .*{path.name}: it has mode I;16; allowed: RGB"):
        read(source(root), "val", 255)
    path.unlink()
    with pytest.raises(BadSampleError, match=rf"cannot read the mask .*{path.name}: No such file"):
        read(source(root), "val", 255)
    path.write_bytes(encode_png(id_colours(ids_of(255, 0)[:-1])))
    with pytest.raises(BadSampleError, match="is 53x40, but its image is 53x41"):
        read(source(root), "val", 255)


def test_folders_of_another_variant(root: Path) -> None:
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(ValueError, match=r"train has a folder n99999999 \(1 such\) that .*validation lacks"):
        _ = source(root).taxonomy


def test_too_many_folders(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / "train" / wnid(number)).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has 1000 folders; allowed are at most 999, since 1000 is the id of ignored"):
        _ = source(tmp_path).taxonomy


def test_signature_depends_on_what_is_read(root: Path) -> None:
    before = {masks: source(root).signature(masks=masks) for masks in (True, False)}
    assert before == {masks: source(root).signature(masks=masks) for masks in (True, False)}
    (root / "validation-segmentation" / wnid(255) / f"{name_of('val', 255, 0)}.png").unlink()
    assert source(root).signature(masks=False) == before[False]
    assert source(root).signature() != before[True]
    (root / "train" / wnid(255) / f"{name_of('train', 255, 2)}.JPEG").unlink()
    assert source(root).signature(masks=False) != before[False]


def test_ids_and_colours() -> None:
    ids = np.arange(1000, dtype=np.uint16).reshape(25, 40)
    colours = id_colours(ids)
    assert colours[0, 1].tolist() == [1, 0, 0] and colours[6, 16].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(decode_id_png(encode_png(colours)), ids)
