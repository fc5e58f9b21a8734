from __future__ import annotations

import numpy as np
import pytest

from shards.taxonomy import VOC_20, Taxonomy, ilsvrc_det_200, ilsvrc_det_synsets, palette


def test_lid_has_200_classes_and_person_is_124() -> None:
    assert len(ilsvrc_det_200()) == 200
    assert ilsvrc_det_200().id_of("person") == 124
    assert ilsvrc_det_200().name_of(1) == "accordion" and ilsvrc_det_200().name_of(200) == "zebra"


def test_synsets_name_every_class_once() -> None:
    synsets = ilsvrc_det_synsets()
    assert sorted(synsets.values()) == list(range(1, 201))
    assert synsets["n00007846"] == 124
    assert all(wnid[0] == "n" and len(wnid) == 9 for wnid in synsets)


def test_voc_ids() -> None:
    assert len(VOC_20) == 20
    known = {"aeroplane": 1, "car": 7, "diningtable": 11, "person": 15, "tvmonitor": 20}
    assert {name: VOC_20.id_of(name) for name in known} == known
    assert VOC_20.name_of(0) == "background" and VOC_20.name_of(15) == "person"


def test_palette_is_vocs() -> None:
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {class_id: tuple(palette()[class_id].tolist()) for class_id in known} == known
    assert len(np.unique(palette(), axis=0)) == 256


def test_subset_numbers_anew() -> None:
    animals = VOC_20.subset(["dog", "cat"])
    assert animals.names == ("dog", "cat") and animals.id_of("cat") == 2
    assert VOC_20.subset(()) == VOC_20
    with pytest.raises(ValueError, match=r"unknown class 'catt'; did you mean cat"):
        VOC_20.subset(["catt"])


def test_bad_class_lists() -> None:
    with pytest.raises(ValueError, match="repeated: cat"):
        Taxonomy(("cat", "dog", "cat"))
    for count in (0, 65_535):
        with pytest.raises(ValueError, match=f"a class list must have 1 to 65534 names, this one has {count}"):
            Taxonomy(tuple(f"c{number}" for number in range(count)))
