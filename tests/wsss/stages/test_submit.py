from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.images import decode_index_png
from shards.records import Missing, Prediction, Record
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.stage import Instance, Outcome
from wsss.stages.evaluation.check_submission import check_submission, expected_images
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit

MASKS = {
    "ILSVRC/val_1": np.full((8, 12), 200, np.uint8),
    "ILSVRC/val_2": np.arange(35, dtype=np.uint8).reshape(5, 7),
    "val_3": np.zeros((3, 2), np.uint8),
}


def prepared(path: Path, *, also: tuple[Record | Missing, ...] = ()) -> Instance:
    truths = [sample(key, None, size=(mask.shape[0], mask.shape[1])) for key, mask in MASKS.items()]
    samples = samples_of(path, {"val-000000": truths[:2], "val-000001": truths[2:]})
    grid = np.zeros((1, 1), np.uint8)
    made: list[Record | Missing] = [Prediction(key=key, mask=mask, confidence=grid) for key, mask in MASKS.items()]
    predictions = records_of(Predict(), path, samples, {"val-000000": made[:2], "val-000001": [*made[2:], *also]})
    return instance_of(Submit(), path, samples=samples, predictions=predictions)


def submit(instance: Instance) -> Outcome:
    stage = instance.stage
    assert isinstance(stage, Submit)
    counts = [stage.counter(instance)(shard) for shard in stage.shards(instance)]
    return stage.finish(instance, counts[0] + counts[1])


def test_zip_is_flat_exact_and_the_same_every_time(tmp_path: Path) -> None:
    outcome = submit(prepared(tmp_path / "one"))
    path = Path(outcome.artifacts["results.zip"])
    assert outcome.metrics == {"images": 3.0}
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["val_1.png", "val_2.png", "val_3.png"]
        for name, mask in zip(archive.namelist(), MASKS.values(), strict=True):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                assert image.mode == "L"
            np.testing.assert_array_equal(decode_index_png(archive.read(name)), mask)
    again = submit(prepared(tmp_path / "two")).artifacts["results.zip"]
    assert Path(again).read_bytes() == path.read_bytes()
    expected = expected_images(tmp_path / "one" / "build_shards", "val")
    assert expected == {"val_1": (8, 12), "val_2": (5, 7), "val_3": (3, 2)}
    assert list(check_submission(path, num_classes=200, expected=expected)) == []


def test_every_setting_behind_it_is_reported(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    rows = submit(instance).tables["lineage"]
    reported = {row["setting"]: row["value"] for row in rows}
    assert reported["submit.split"] == "val" and reported["submit.inputs.predictions"] == "predict"
    assert reported["predict.scales"] == "[0.5, 1.0, 2.0]" and reported["predict.merge"] == "mean_logits"
    assert reported["build_shards.source"] == "toy"
    assert len(reported) == len(rows), "what several instances read stands there once"
    (of_scales,) = [row for row in rows if row["setting"] == "predict.scales"]
    assert of_scales["fingerprint"] == instance.inputs["predictions"].fingerprint
    assert (of_scales["instance"], of_scales["kind"]) == ("predict", "predict")


def test_missing_predictions_are_no_submission(tmp_path: Path) -> None:
    instance = prepared(tmp_path, also=(Missing(key="val_4", reason="unreadable"),))
    with pytest.raises(
        ValueError, match="submit: 1 predictions of split 'val' are missing, but a submission needs every"
    ):
        submit(instance)
    assert not (instance.path / "results.zip").exists()


def test_images_of_equal_names_are_no_submission(tmp_path: Path) -> None:
    same = Prediction(key="other/val_1", mask=MASKS["val_3"], confidence=np.zeros((1, 1), np.uint8))
    instance = prepared(tmp_path, also=(same,))
    with pytest.raises(ValueError, match=r"submit: .*/val_1 and other/val_1 would both be val_1\.png"):
        submit(instance)
    assert not (instance.path / "results.zip").exists()


def test_expected_images_of_a_split_that_is_not_there(tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(ValueError, match="holds no split 'test'; it has val"):
        expected_images(tmp_path / "build_shards", "test")


def test_predictions_that_used_labels_are_no_submission(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    reported = replace(instance.inputs["predictions"], stage=Predict(labels="given"))
    with pytest.raises(ValueError, match=r"submit: predict uses the images' labels, which the challenge"):
        instance.stage.check(replace(instance, inputs={**instance.inputs, "predictions": reported}))
    instance.stage.check(instance)
