from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.images import decode_index_png, encode_png
from shards.records import Missing, Prediction, Record
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.stage import Instance, Outcome
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit, check_submission, expected_images, tell_faults

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


def test_every_setting_behind_it_is_told(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    rows = submit(instance).tables["lineage"]
    told = {row["setting"]: row["value"] for row in rows}
    assert told["submit.split"] == "val" and told["submit.inputs.predictions"] == "predict"
    assert told["predict.scales"] == "[0.5, 1.0, 2.0]" and told["predict.merge"] == "mean_logits"
    assert told["build_shards.source"] == "toy"
    assert len(told) == len(rows), "what several instances read stands there once"
    (of_scales,) = [row for row in rows if row["setting"] == "predict.scales"]
    assert of_scales["fingerprint"] == instance.inputs["predictions"].fingerprint
    assert (of_scales["instance"], of_scales["kind"]) == ("predict", "predict")


def test_missing_predictions_are_no_submission(tmp_path: Path) -> None:
    instance = prepared(tmp_path, also=(Missing(key="val_4", reason="unreadable"),))
    with pytest.raises(
        ValueError, match="submit: 1 predictions of split 'val' are missing, and a submission needs every"
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
    with pytest.raises(ValueError, match="holds no split 'test'"):
        expected_images(tmp_path / "build_shards", "test")


def faults(tmp_path: Path, members: dict[str, bytes], expected: dict[str, tuple[int, int]] | None = None) -> list[str]:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return [str(fault) for fault in check_submission(path, num_classes=20, expected=expected)]


def as_png(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


NO_INDICES = "a mask must be a PNG of indices (mode L or P), this one is a PNG of mode"
GOOD = encode_png(np.zeros((3, 4), np.uint8))


def test_form_alone(tmp_path: Path) -> None:
    assert faults(tmp_path, {"a.png": GOOD, "b.png": GOOD}) == []


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("folder/a.png", GOOD, "folder/a.png: the zip must hold <basename>.png files only, no folders"),
        ("a.jpg", GOOD, "a.jpg: the zip must hold <basename>.png files only, no folders"),
        ("a.png", as_png("RGB"), f"a.png: {NO_INDICES} RGB"),
        ("a.png", as_png("I;16"), f"a.png: {NO_INDICES} I;16"),
        ("a.png", as_png("P"), "a.png: of mode P; a palette is not allowed, write one grey channel of class ids"),
        ("a.png", as_png("1"), "a.png: of mode 1; a palette is not allowed, write one grey channel of class ids"),
        ("a.png", b"", "a.png: the file is empty"),
        ("a.png", b"text", "a.png: not a readable image: of no known format"),
        ("a.png", encode_png(np.full((3, 4), 21, np.uint8)), "a.png: holds the value 21; allowed are 0..20"),
        ("a.png", encode_png(np.full((3, 4), 255, np.uint8)), "a.png: holds the value 255; allowed are 0..20"),
    ],
)  # fmt: skip
def test_every_fault_is_told(tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    assert faults(tmp_path, {name: data, "good.png": GOOD}) == [fault]


def test_images_against_the_list(tmp_path: Path) -> None:
    found = faults(tmp_path, {"a.png": GOOD, "c.png": GOOD}, {"a": (4, 3), "b": (3, 4)})
    assert found == ["a.png: is 4x3, its image 3x4", "c.png: no such image in the list", "b.png: missing"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_image_that_stands_in_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", GOOD)
        archive.writestr("a.png", GOOD)
    assert [str(fault) for fault in check_submission(path, num_classes=20)] == ["a.png: appears twice"]


def test_damaged_member(tmp_path: Path) -> None:
    faults(tmp_path, {"a.png": GOOD, "b.png": GOOD})
    path = tmp_path / "results.zip"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    (fault,) = check_submission(path, num_classes=20)
    assert str(fault).startswith("a.png: cannot be read: ")


def test_a_few_of_each_kind_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(9):
            archive.writestr(f"{number}.png", as_png("RGB"))
        archive.writestr("folder/a.png", GOOD)
    lines = list(tell_faults(check_submission(path, num_classes=20), examples=2))
    assert lines == [
        f"0.png: {NO_INDICES} RGB",
        f"1.png: {NO_INDICES} RGB",
        "folder/a.png: the zip must hold <basename>.png files only, no folders",
        "9 files in all: no mask",
        "faults: 10",
    ]
    assert list(tell_faults([])) == ["in order"]


def test_submission_of_another_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 2 images expected; is it of another split"):
        faults(tmp_path, {"x.png": GOOD}, {"a": (3, 4), "b": (3, 4)})


def test_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "results.zip").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"results.zip is not a readable zip file"):
        list(check_submission(tmp_path / "results.zip", num_classes=20))
    with pytest.raises(ValueError, match=r"there is no file .*none.zip"):
        list(check_submission(tmp_path / "none.zip", num_classes=20))


def test_predictions_that_used_labels_are_no_submission(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    told = replace(instance.inputs["predictions"], stage=Predict(labels="given"))
    with pytest.raises(ValueError, match=r"submit: predict uses the images' labels, which no competitor"):
        instance.stage.check(replace(instance, inputs={**instance.inputs, "predictions": told}))
    instance.stage.check(instance)
