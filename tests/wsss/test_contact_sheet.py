from __future__ import annotations

import numpy as np
from PIL import Image

from shards.records import InstanceLabel, Prediction
from tests.wsss.layers import sample
from wsss.contact_sheet import _row
from wsss.pictures import TILE


def test_instances_have_colours_of_their_own_and_an_outline() -> None:
    mask = np.zeros((400, 320), np.uint8)
    instances = np.zeros((400, 320), np.uint16)
    instances[100:300, 0:160], instances[100:300, 160:320] = 1, 2
    label = InstanceLabel(
        key="a", instances=instances, classes=np.array([3, 3], np.int16), scores=np.ones(2, np.float16)
    )
    prediction = Prediction(key="a", mask=mask, confidence=np.zeros((100, 80), np.uint8))
    tiles = _row({"image": sample("a", mask), "mine": prediction, "instances": label}, predictions=["mine"])
    assert {"image", "mine", "instances", "truth"} < set(tiles) and {tile.size for tile in tiles.values()} == {
        (TILE * 4 // 5, TILE)
    }
    drawn = np.asarray(tiles["instances"]).astype(int)
    left, right, outside = drawn[80, 30], drawn[80, 100], drawn[10, 10]
    assert np.abs(left - right).sum() > 100 and len(set(outside.tolist())) == 1
    assert (drawn[80, 64] == 255).all() and (drawn[80] == 255).all(axis=1).sum() == 1, "one line between them"
    without = _row({"image": sample("a", mask), "mine": prediction}, predictions=["mine"])["instances"]
    assert isinstance(without, Image.Image) and without.size == tiles["instances"].size
