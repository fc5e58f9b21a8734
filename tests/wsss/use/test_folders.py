from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from rich.console import Console

import wsss
from cluster import shard_work
from cluster.local import LocalRuntime
from cluster.ray_runtime import RayRuntime
from shards.images import decode_index_png
from shards.layer import Layer, ManifestEntry
from shards.records import Missing, Record
from tests.wsss.use.made_models import CLASSES, affinity, classifier, draw_folder, picture, segmenter, write_model
from wsss.contract.runtime import Runtime, RuntimeSettings
from wsss.stages.train_affinity import TrainAffinity
from wsss.use import folder_chain
from wsss.use.folder_results import FolderSummary
from wsss.use.folders import Folders, label_folder, label_stages, predict_folder, summary_lines

SIZES = {"b.png": (37, 53), "a/c d.png": (64, 48), "a/e.png": (41, 41), "f.png": (33, 70), "g.png": (50, 30)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmenter(tmp_path_factory.mktemp("model") / "weights.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "photos", SIZES)


def folders(
    root: Path, out: Path, *overrides: str, overlays: bool = False, coco: bool = False, make_runtime: Any = LocalRuntime
) -> Folders:
    console = Console(quiet=True)
    return Folders(
        root=root,
        out=out,
        overrides=overrides,
        overlays=overlays,
        coco=coco,
        make_runtime=make_runtime,
        console=console,
    )


def predict(root: Path, out: Path, model: Path, *overrides: str, **options: Any) -> FolderSummary:
    given = folders(root, out, *overrides, **options)
    return predict_folder(given, model_path=model, settings={"scales": (1.0,), "flip": False, "refine": "none"})


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "pictures.csv").open(newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def mask(out: Path, key: str) -> np.ndarray:
    return decode_index_png((out / "masks" / f"{key}.png").read_bytes())


def test_masks_are_those_of_the_loaded_model_and_have_the_sizes_of_the_pictures(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = predict(photos, out, model, overlays=True)
    assert (summary.masks, summary.unreadable) == (5, 0)
    loaded = wsss.load(model)
    for name, size in SIZES.items():
        key = name.removesuffix(".png")
        assert mask(out, key).shape == size
        np.testing.assert_array_equal(mask(out, key), loaded(photos / name).mask)
        assert Image.open(out / "overlays" / f"{key}.png").size == size[::-1]
        found = rows(out)[name]
        assert (found["mask"], found["height"], found["width"]) == (f"masks/{key}.png", str(size[0]), str(size[1]))
        classes = set(found["classes"].split("|")) - {""}
        assert classes == {loaded.class_names[index] for index in np.unique(mask(out, key)) if index}
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.csv", "masks", "overlays", "pictures.csv", "summary.json"
    ]  # fmt: skip


def test_pictures_that_are_none_are_recorded_and_counted(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "text.jpg").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "b.png").read_bytes()[:200])
    (photos / "back\\slash.png").write_bytes((photos / "b.png").read_bytes())
    (photos / "list.txt").write_text("b.png")
    out = tmp_path / "out"
    summary = predict(photos, out, model)
    assert (summary.masks, summary.unreadable, summary.others) == (5, 3, 1)
    errors = {name: row["error"] for name, row in rows(out).items() if row["error"]}
    assert set(errors) == {"text.jpg", "cut.png", "back\\slash.png"}
    assert "not a readable image" in errors["text.jpg"]
    assert any("3 pictures could not be read" in line for line in summary_lines(summary, out))
    only = tmp_path / "only"
    only.mkdir()
    (only / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"none of the pictures in .*only can be used:\s+text: text\.jpg: not a read"):
        predict(only, tmp_path / "out2", model)


def test_an_upright_mask_of_a_turned_photograph(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(1, (30, 50))).save(tmp_path / "in" / "t.png", exif=exif)
    predict(tmp_path / "in", tmp_path / "out", model)
    assert mask(tmp_path / "out", "t").shape == (50, 30)


class _StoppedError(Exception):
    pass


def test_stopped_work_is_resumed_with_the_same_bytes(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_chain, "_SHARD_SIZE", 2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict(photos, whole, model)
    written: list[str] = []
    stop_at = [0]
    write_shard = shard_work.write_shard

    def write(layer: Layer, shard: str, records: Iterable[Record | Missing], **given: Any) -> ManifestEntry:
        if len(written) == stop_at[0]:
            raise _StoppedError
        written.append(f"{layer.kind} {shard}")
        return write_shard(layer, shard, records, **given)

    monkeypatch.setattr(shard_work, "write_shard", write)
    for limit in (1, 4):
        stop_at[0] = limit
        with pytest.raises(_StoppedError):
            predict(photos, out, model)
        assert not (out / "summary.json").exists()
    stop_at[0] = 99
    predict(photos, out, model)
    assert files(out) == files(whole)
    assert sorted(written) == [f"{kind} pictures-00000{n}" for kind in ("prediction", "sample") for n in range(3)]
    # The same command again has nothing to do, and overlays need no network.
    predict(photos, out, model, overlays=True)
    assert len(written) == 6
    assert set(files(out)) - set(files(whole)) == {f"overlays/{name}" for name in SIZES}


def test_more_pictures_are_taken_in_and_removed_ones_go(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(photos, out, model)
    shutil.move(photos / "b.png", photos / "new.png")
    assert predict(photos, out, model).masks == 5
    assert set(rows(out)) == (set(SIZES) - {"b.png"}) | {"new.png"}
    assert not (out / "masks" / "b.png").exists() and (out / "masks" / "new.png").exists()
    shutil.copy(photos / "f.png", photos / "new.png")  # another picture of the same name
    predict(photos, out, model)
    np.testing.assert_array_equal(mask(out, "new"), mask(out, "f"))


def test_results_of_other_settings_or_models_are_not_mixed(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(photos, out, model)
    before = files(out)
    with pytest.raises(ValueError, match="holds the results of other settings"):
        predict(photos, out, model, "predict.flip=true")
    other = segmenter(tmp_path / "other.safetensors", decoder_channels=16)
    with pytest.raises(ValueError, match="holds the results of other models"):
        predict(photos, out, other)
    assert files(out) == before
    with pytest.raises(ValueError, match="is not empty and has no summary"):
        predict(photos, tmp_path, model)


def test_wrong_settings_are_reported_before_anything_is_written(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = {
        "predict.flp=true": r"predict\.flp: .*did you mean flip",
        "predict.merge=median": r"predict\.merge",
        "predict.prior_weight=0.5": r"predict\.prior_weight .* has only a segmenter; remove",
        "evaluate.x=1": "evaluate",
        "runtime.runs=x": r"runtime\.runs: it is not read here",
        "runtime.thread=2": r"runtime\.thread: .*threads",
    }
    for override, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            predict(photos, out, model, override)
    assert not out.exists()


def labels(path: Path, text: str) -> Path:
    path.write_text(f"image,labels\n{text}")
    return path


def label(root: Path, out: Path, table: Path, model: Path, *overrides: str, **options: Any) -> FolderSummary:
    chosen = {"affinity": None, "recipe": None, "split": ""} | options
    return label_folder(folders(root, out, *overrides), model_path=model, labels=table, **chosen)


def test_pseudo_labels_show_the_given_classes_only(photos: Path, tmp_path: Path) -> None:
    trained = classifier(tmp_path / "c.safetensors")
    table = labels(tmp_path / "l.csv", "b.png,dog\na/e.png,cat|sheep\nf.png,\n")
    summary = label(photos, tmp_path / "out", table, trained, "make_cams.scales=[1.0]")
    assert summary.masks == 3
    assert set(np.unique(mask(tmp_path / "out", "b"))) <= {0, 2}
    assert set(np.unique(mask(tmp_path / "out", "a/e"))) <= {0, 1, 3}
    assert not mask(tmp_path / "out", "f").any()
    assert mask(tmp_path / "out", "b").any() and mask(tmp_path / "out", "b").shape == SIZES["b.png"]
    assert set(rows(tmp_path / "out")) == {"b.png", "a/e.png", "f.png"}
    assert json.loads((tmp_path / "out" / "summary.json").read_bytes())["settings"]["make_scores.propagation"] == "none"


def test_the_random_walk_changes_the_labels(photos: Path, tmp_path: Path) -> None:
    trained, walk = classifier(tmp_path / "c.safetensors"), affinity(tmp_path / "a.safetensors")
    table = labels(tmp_path / "l.csv", "b.png,dog\n")
    quick = (
        "make_cams.scales=[1.0]",
        "make_pseudo_labels.refine=none",
        "make_pseudo_labels.background_threshold=0.7",
    )
    label(photos, tmp_path / "plain", table, trained, *quick)
    label(photos, tmp_path / "walked", table, trained, *quick, "make_scores.num_steps_log2=4", affinity=walk)
    assert (mask(tmp_path / "plain", "b") != mask(tmp_path / "walked", "b")).any()
    other = write_model(tmp_path / "o.safetensors", TrainAffinity(encoder="test_efficientnet"), classes=("x", "y"))
    with pytest.raises(ValueError, match=r"has 3 classes and .* has 2, and they are not the same"):
        label(photos, tmp_path / "other", table, trained, affinity=other)
    with pytest.raises(ValueError, match=r"holds a classifier .*; --affinity needs an affinity network"):
        label(photos, tmp_path / "other", table, trained, affinity=trained)


def test_settings_come_from_a_recipe(photos: Path, tmp_path: Path) -> None:
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "tiny.toml"
    trained, table = classifier(tmp_path / "c.safetensors"), labels(tmp_path / "l.csv", "b.png,dog\n")
    summary = label(
        photos, tmp_path / "out", table, trained, "make_pseudo_labels.background_threshold=0.4", recipe=recipe
    )
    known = summary.settings
    assert known["make_cams.scales"] == [1.0, 0.5] and known["make_pseudo_labels.crf_iterations"] == 2
    assert known["make_pseudo_labels.background_threshold"] == 0.4
    none = tmp_path / "none.toml"
    none.write_text('[recipe]\nname = "x"\n[stages.build_shards]\nsource = "toy"\n')
    with pytest.raises(ValueError, match="of make_pseudo_labels it has none"):
        label(photos, tmp_path / "out2", table, trained, recipe=none)


def test_of_several_chains_of_a_recipe_the_plain_name_is_taken() -> None:
    """toy.toml also has stochastic maps, voc_labels.toml labels of the maps without a walk and of a second round."""
    recipes = Path(__file__).resolve().parents[3] / "tuning" / "recipes"
    toy = label_stages(recipes / "toy.toml", [], split="train", walks=True)
    assert toy["make_cams"].method == "cam"  # type: ignore[attr-defined]
    voc = label_stages(recipes / "voc_labels.toml", [], split="train", walks=True)
    assert voc["make_pseudo_labels"].background_threshold == 0.25  # type: ignore[attr-defined]


TWO_WALKS = """
recipe.name = "two"
[stages.build_shards]
source = "toy"
counts = { train = 5, val = 2 }
[stages.train_classifier]
[stages.make_cams]
[stages.make_seeds]
[stages.train_affinity]
[stages.other]
kind = "train_affinity"
radius = 7
[stages.make_scores]
second_affinity = true
inputs = { affinity = "train_affinity", second_affinity = "other" }
[stages.make_pseudo_labels]
"""


def test_a_walk_along_two_networks_is_refused_with_one(tmp_path: Path) -> None:
    path, second = tmp_path / "two.toml", "make_scores.second_affinity"
    path.write_text(TWO_WALKS)
    for recipe, overrides in ((path, []), (None, [f"{second}=true"])):
        with pytest.raises(ValueError, match=r"true walks along two .* set it to false, without inputs"):
            label_stages(recipe, overrides, split="train", walks=True)
        stages = label_stages(recipe, overrides, split="train", walks=False)
        assert stages["make_scores"].propagation == "none", "no walk, so nothing is ignored"  # type: ignore[attr-defined]
    changed = TWO_WALKS.replace(', second_affinity = "other"', "").replace("second_affinity = true", "")
    path.write_text(changed)
    assert label_stages(path, [], split="train", walks=True)["make_scores"].propagation == "walk"  # type: ignore[attr-defined]


def test_maps_of_prototypes_are_refused_without_training_images() -> None:
    with pytest.raises(ValueError, match=r"make_cams.method = 'lpcam' reads the prototypes .* choose another method"):
        label_stages(None, ["make_cams.method=lpcam"], split="train", walks=False)


def test_refused_settings_leave_no_note_that_blocks_the_next_try(photos: Path, tmp_path: Path) -> None:
    """Stochastic maps do not fit the classifier: that is found after OUT was made."""
    trained, table = classifier(tmp_path / "c.safetensors"), labels(tmp_path / "l.csv", "b.png,dog\n")
    with pytest.raises(ValueError, match="needs a classifier with head"):
        label(photos, tmp_path / "out", table, trained, "make_cams.method=stochastic")
    assert label(photos, tmp_path / "out", table, trained).masks == 1


@pytest.mark.ray
@pytest.mark.extended
def test_ray_gives_the_same_bytes(model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_chain, "_SHARD_SIZE", 2)

    def on_ray(settings: RuntimeSettings) -> Runtime:
        return RayRuntime(settings, address=None)

    predict(photos, tmp_path / "here", model)
    predict(photos, tmp_path / "ray", model, "runtime.num_actors=2", make_runtime=on_ray)
    assert files(tmp_path / "ray") == files(tmp_path / "here")


def test_other_programs_read_the_masks_as_class_ids(photos: Path, tmp_path: Path) -> None:
    """Pillow, OpenCV, and the data set of segmentation_models_pytorch, which also reads photographs by their names."""
    from segmentation_models_pytorch.datasets import OxfordPetDataset

    trained = classifier(tmp_path / "c.safetensors")
    table = labels(tmp_path / "l.csv", "b.png,dog\ng.png,cat|sheep\n")
    label(photos, tmp_path / "out", table, trained, "make_cams.scales=[1.0]")
    path = tmp_path / "out" / "masks" / "g.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), mask(tmp_path / "out", "g"))
    for how in (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED):
        np.testing.assert_array_equal(cv2.imread(str(path), how), mask(tmp_path / "out", "g"))
    pets = tmp_path / "pets"
    (pets / "images").mkdir(parents=True)
    for name in ("b", "g"):
        Image.open(photos / f"{name}.png").save(pets / "images" / f"{name}.jpg")
    shutil.copytree(tmp_path / "out" / "masks", pets / "annotations" / "trimaps")
    (pets / "annotations" / "test.txt").write_text("b\ng\n")
    read = OxfordPetDataset(str(pets), mode="test")
    for number, name in enumerate(("b", "g")):
        np.testing.assert_array_equal(read[number]["trimap"], mask(tmp_path / "out", name))


def test_coco_s_own_tools_read_the_annotations(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "text.jpg").write_text("no picture")
    predict(photos, out, model, coco=True)
    coco = COCO(str(out / "coco.json"))
    assert {one["file_name"] for one in coco.dataset["images"]} == set(SIZES)
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.dataset["images"]:
        values = mask(out, image["file_name"].removesuffix(".png"))
        assert (image["height"], image["width"]) == values.shape
        drawn = np.zeros_like(values)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            pixels = coco.annToMask(annotation).astype(bool)
            rows_of, columns_of = np.nonzero(pixels)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns_of.min(), rows_of.min())
            assert (left + width, top + height) == (columns_of.max() + 1, rows_of.max() + 1)
            assert annotation["area"] == pixels.sum() and not drawn[pixels].any()
            drawn[pixels] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, values)
