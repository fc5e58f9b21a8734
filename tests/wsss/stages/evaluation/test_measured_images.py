"""An evaluation over the images of a list, or over all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.records import Missing, Prediction, Record
from tests.wsss.layers import sample
from tests.wsss.stages.test_evaluate import evaluate, prepared, rectangles
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.stages.evaluate import Evaluate

KEYS = "abcd"
LEFT, EVERY = slice(0, 6), slice(0, 8)


def over(tmp_path: Path, **settings: object) -> Instance:
    """Four images, of which a and b are predicted right, and c and d as background; `lost` has no record."""
    truths = [sample(key, rectangles((1, EVERY, LEFT)), position=place) for place, key in enumerate(KEYS)]
    grid, right, empty = np.zeros((2, 3), np.uint8), rectangles((1, EVERY, LEFT)), rectangles()
    records: list[Record | Missing] = [
        Prediction(key=key, mask=right if key in "ab" else empty, confidence=grid) for key in KEYS
    ]
    return prepared(tmp_path, truths, records, **settings)


def listed(tmp_path: Path, *keys: str) -> str:
    path = tmp_path / "dev.txt"
    path.write_text("\n".join(keys) + "\n")
    return str(path)


def test_the_images_of_a_list_and_all_others(tmp_path: Path) -> None:
    dev = listed(tmp_path, "a", "c")
    only = evaluate(over(tmp_path / "only", image_list=dev)).metrics
    others = evaluate(over(tmp_path / "except", image_list=dev, list_use="except")).metrics
    assert (only["val.images"], only["val.excluded"], only["val.missing"]) == (2, 3, 0)
    assert (others["val.images"], others["val.excluded"], others["val.missing"]) == (2, 2, 1)
    assert only["mean_iou"] == others["mean_iou"] == pytest.approx((96 / 144 + 48 / 96) / 2)
    right = evaluate(over(tmp_path / "right", image_list=listed(tmp_path, "a", "b"))).metrics
    assert right["mean_iou"] == 1, "the images that are wrong are not in the list"
    assert "val.excluded" not in evaluate(over(tmp_path / "all")).metrics


def test_a_list_enters_the_fingerprint_by_its_content(tmp_path: Path) -> None:
    dev = listed(tmp_path, "a", "c")
    copy = tmp_path / "copy.txt"
    copy.write_bytes(Path(dev).read_bytes())
    values = hashed_values(Evaluate(image_list=dev))
    assert values == hashed_values(Evaluate(image_list=str(copy))) and values["list_use"] == "only"
    assert values != hashed_values(Evaluate(image_list=listed(tmp_path, "a")))
    without = hashed_values(Evaluate())
    assert "image_list" not in without and "list_use" not in without, "results of earlier versions stay valid"
    assert hashed_values(Evaluate(image_list="voc_animals_dev.txt"))["image_list"].startswith("sha256:")  # type: ignore[attr-defined]


def test_what_is_refused(tmp_path: Path) -> None:
    absent = over(tmp_path / "a", image_list=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match=r"evaluate.image_list = .*none.txt.* does not exist"):
        absent.stage.check(absent)
    planned = over(tmp_path / "b", image_list="$DEV_LIST")
    planned.stage.check(planned)  # a plan reads recipes whose data are not here
    with pytest.raises(ValueError, match=r"names 'x' \(2 such\), which is no image of 'val'; remove it"):
        evaluate(over(tmp_path / "c", image_list=listed(tmp_path, "a", "x", "y")))
    every = listed(tmp_path, *KEYS, "lost")  # an unreadable image may be listed
    with pytest.raises(ValueError, match=r"with list_use = 'except', .*dev.txt leaves no image"):
        evaluate(over(tmp_path / "d", image_list=every, list_use="except"))


def test_a_trial_run_on_some_shards_does_not_need_all_images_of_a_list(tmp_path: Path) -> None:
    def cut(instance: Instance) -> Instance:
        samples = instance.inputs["samples"]
        few = replace(samples, stage=replace(samples.stage, max_shards=1))  # type: ignore[type-var]
        return replace(instance, inputs={**instance.inputs, "samples": few})

    some = evaluate(cut(over(tmp_path / "some", image_list=listed(tmp_path, "a", "x")))).metrics
    assert (some["val.images"], some["val.excluded"]) == (1, 4)
    with pytest.raises(ValueError, match=r"leaves no image of those that build_shards.max_shards = 1 keeps"):
        evaluate(cut(over(tmp_path / "none", image_list=listed(tmp_path, "x"))))


def test_a_plan_counts_the_images_that_are_measured(tmp_path: Path) -> None:
    dev = listed(tmp_path, "a", "c", "c")
    assert Evaluate(image_list=dev).planned_images(10) == 2
    assert Evaluate(image_list=dev, list_use="except").planned_images(10) == 8
    assert Evaluate(image_list=str(tmp_path / "none.txt")).planned_images(10) == Evaluate().planned_images(10) == 10


def test_the_dev_part_of_the_photographs_is_a_small_part_of_the_training_images() -> None:
    lists = Path(__file__).parents[4] / "tuning" / "recipes" / "lists"
    dev, train = ((lists / f"voc_animals_{name}.txt").read_text().split() for name in ("dev", "train"))
    assert dev == train[::11][:100]
