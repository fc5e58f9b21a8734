"""The stage's own part: which settings lead to which data set, and what becomes of bad samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from cluster.shard_work import pending_shards
from shards.images import encode_png
from shards.layer import Layer
from shards.reader import read_shard
from shards.records import BadSampleError, Missing, Sample
from shards.sources.coco import CocoSource
from shards.sources.finished import FinishedShards
from shards.sources.folder import FolderSource
from shards.sources.ilsvrc_det import IlsvrcDetSource
from shards.sources.imagenet_s import FOLDERS, ImagenetSSource
from shards.sources.lid import LidSource
from shards.sources.source import Listed
from shards.sources.voc import VocSource
from shards.writer import write_shard
from tests.shards.example_records import sample
from tests.shards.sources.coco_folder import make_coco
from tests.shards.sources.ilsvrc_folder import EXTRA, TRAIN, make_ilsvrc
from tests.shards.sources.imagenet_s_folder import make_imagenet_s
from tests.shards.sources.lid_folder import make_lid
from tests.shards.sources.pictures import jpeg, put
from tests.shards.sources.voc_folder import make_voc
from tests.wsss.layers import instance_of
from wsss.contract.settings import hashed_values, setting_values
from wsss.contract.stage import Instance, Outcome
from wsss.stages.build_shards import BuildShards
from wsss.stages.data_sets.registry import DATA_SETS, DataSettings


def settings_of(source: str, folder: Path) -> dict[str, Any]:
    """Settings that open a small data set of that kind, made in `folder`."""
    if source == "toy":
        return {"counts": {"train": 2, "val": 1}}
    if source == "voc":
        root = make_voc(folder / "voc")
        return {"root": str(root), "lists": {split: str(root / "lists" / f"{split}.txt") for split in ("train", "val")}}
    if source == "ilsvrc_det":
        return {"root": str(make_ilsvrc(folder / "det"))}
    if source == "lid":
        return {"root": str(make_ilsvrc(folder / "det")), "package": str(make_lid(folder / "lid"))}
    if source == "coco":
        return {"root": str(make_coco(folder / "coco")), "splits": ("val", "test")}
    if source == "imagenet_s":
        root = make_imagenet_s(folder / "imagenet_s", num_classes=7, shown=(2, 5))
        return {"root": str(root), "splits": ("train", "val", "test")}
    if source == "shards":
        layer = Layer(folder / "built", "sample")
        for shard in ("train-000000", "val-000000"):
            write_shard(layer, shard, [sample(shard)])
        layer.complete(["train-000000", "val-000000"], classes=("a", "b", "c", "d", "e"))
        return {"root": str(layer.path)}
    put(folder / "f" / "a.jpg", jpeg(9, 9, seed=1))
    put(folder / "f" / "b.jpg", jpeg(9, 9, seed=2))
    put(folder / "f" / "t.csv", "image,labels,split\na.jpg,cat,train\nb.jpg,dog,val\n")
    return {"root": str(folder / "f"), "lists": {"train": "t.csv", "val": "t.csv"}}


def stage_of(source: str, folder: Path, **changes: Any) -> BuildShards:
    return BuildShards(source=source, **(settings_of(source, folder) | changes))  # type: ignore[arg-type]


def test_the_setting_names_all_data_sets() -> None:
    assert get_args(get_type_hints(BuildShards)["source"]) == tuple(DATA_SETS)
    known = set(setting_values(DataSettings()))
    assert set().union(*(data_set.reads for data_set in DATA_SETS.values())) == known


@pytest.mark.parametrize("source", [source for source in DATA_SETS if source != "shards"])
def test_every_data_set_becomes_shards(tmp_path: Path, source: str) -> None:
    stage = stage_of(source, tmp_path, shard_size=2)
    instance = instance_of(stage, tmp_path)
    stage.check(instance)
    assert len(stage.signature()) == 64 and stage.signature() == stage.signature()
    build = stage.worker(instance)
    records = [record for shard in stage.shards(instance) for record in build(shard)]
    assert not isinstance(stage.data, FinishedShards)
    listed = [one for split in stage.splits for one in stage.data.list_split(split)]
    assert [record.key for record in records] == [one.key for one in listed]
    for record in records:
        assert isinstance(record, Sample), record
        assert set(record.classes).isdisjoint(record.unknown)
        assert {*record.classes, *record.unknown} <= set(range(1, len(stage.taxonomy) + 1))


@pytest.mark.parametrize("source", [source for source in DATA_SETS if source not in ("toy", "shards")])
def test_sizes_are_those_of_the_listed_images(tmp_path: Path, source: str) -> None:
    stage = stage_of(source, tmp_path)
    assert not isinstance(stage.data, FinishedShards)
    for split in stage.splits:
        sizes = stage.data.image_bytes(split)
        assert sizes is not None and sizes.dtype == np.int64
        listed = stage.data.list_split(split)
        assert sizes.tolist() == [len(stage.data.read(one).encoded) for one in listed]


def photographs(folder: Path, *sizes: int) -> BuildShards:
    """Images of these sizes in bytes, cut into shards of about 0.1 MB."""
    for number, size in enumerate(sizes):
        put(folder / f"{number}.jpg", jpeg(9, 9, seed=number).ljust(size, b"\0"))
    put(folder / "t.csv", "image,labels\n" + "".join(f"{number}.jpg,cat\n" for number in range(len(sizes))))
    return BuildShards(
        source="folder", root=str(folder), lists={"train": "t.csv"}, splits=("train",), shard_megabytes=0.1
    )


def keys_of_shards(stage: BuildShards, instance: Instance) -> list[list[str]]:
    build = stage.worker(instance)
    return [[record.key for record in build(shard)] for shard in stage.shards(instance)]


def test_shards_of_equal_bytes(tmp_path: Path) -> None:
    stage = photographs(tmp_path / "f", 70_000, 20_000, 20_000, 20_000, 20_000, 20_000)
    instance = instance_of(stage, tmp_path)
    assert stage.shards(instance) == ["train-000000", "train-000001"]
    assert keys_of_shards(stage, instance) == [["0", "1"], ["2", "3", "4", "5"]]
    by_count = replace(stage, shard_size=5)
    assert keys_of_shards(by_count, instance) == [["0", "1", "2", "3", "4"], ["5"]]
    first_alone = replace(stage, max_shards=1)
    assert keys_of_shards(first_alone, instance) == [["0", "1"]]


def test_what_was_begun_goes_on_with_the_same_cuts(tmp_path: Path) -> None:
    stage = photographs(tmp_path / "f", 70_000, 20_000, 20_000, 20_000, 20_000, 20_000)
    instance = instance_of(stage, tmp_path)
    pending_shards(instance, stage)
    (tmp_path / "f" / "0.jpg").write_bytes(b"")
    (tmp_path / "f" / "5.jpg").unlink()
    assert keys_of_shards(stage, instance) == [["0", "1"], ["2", "3", "4", "5"]]
    pending_shards(instance, stage)
    assert keys_of_shards(stage, instance) == [["0", "1"], ["2", "3", "4", "5"]]
    (instance.path / "shard_boundaries.json").unlink()
    assert keys_of_shards(stage, instance) == [["0", "1", "2", "3", "4", "5"]]


def test_shards_of_what_has_no_size_yet(tmp_path: Path) -> None:
    stage = BuildShards(source="toy", counts={"train": 129, "val": 1})
    assert stage.shards(instance_of(stage, tmp_path)) == ["train-000000", "train-000001", "val-000000"]


def test_one_of_count_and_bytes_enters_the_fingerprint() -> None:
    def cuts(**given: Any) -> dict[str, object]:
        return {k: v for k, v in hashed_values(BuildShards(**given)).items() if k.startswith("shard_")}

    assert cuts(source="voc") == {"shard_megabytes": 100.0}
    assert (
        cuts(source="voc", shard_size=64) == cuts(source="voc", shard_size=64, shard_megabytes=5) == {"shard_size": 64}
    )
    assert cuts(source="toy") == cuts(source="shards") == {}
    assert cuts(source="toy", shard_size=40) == {"shard_size": 40}


def test_finished_shards_are_taken_as_they_are(tmp_path: Path) -> None:
    stage = stage_of("shards", tmp_path, splits=("train",), shard_megabytes=0.001)
    instance = instance_of(stage, tmp_path)
    assert pending_shards(instance, stage) == (["train-000000"], 1)
    assert stage.take(instance, "train-000000") and [path.name for path in instance.path.iterdir()] == [
        "train-000000.json"
    ]


def test_a_finished_layer_is_read_where_its_data_set_is_gone(tmp_path: Path) -> None:
    stage = BuildShards(source="voc", root=str(tmp_path / "unplugged"))
    instance = instance_of(stage, tmp_path)
    write_shard(Layer(instance.path, "sample"), "train-000000", [sample("a")])
    assert [record.key for record in read_shard(instance.layer, "train-000000")] == ["a"]


def test_bad_images_are_recorded_with_their_reason(tmp_path: Path) -> None:
    stage = stage_of("ilsvrc_det", tmp_path, splits=("train",))
    put(tmp_path / "det" / "ILSVRC" / "Data" / "DET" / "train" / f"{EXTRA}.JPEG", b"")
    instance = instance_of(stage, tmp_path)
    records = [record for shard in stage.shards(instance) for record in stage.worker(instance)(shard)]
    missing = [record for record in records if isinstance(record, Missing)]
    assert len(records) == len(TRAIN)
    assert [(one.key, one.reason) for one in missing] == [(EXTRA, f"Data/DET/train/{EXTRA}.JPEG: the file is empty")]


@pytest.mark.parametrize("source", list(DATA_SETS))
def test_a_setting_that_is_not_read_is_refused(tmp_path: Path, source: str) -> None:
    others: dict[str, Any] = {
        "root": "x", "counts": {"train": 1}, "package": "x", "annotations": "panoptic", "label_separator": ";",
        "saliency": "x", "val_labels": "unknown", "mask_folder": "x", "other_classes_as": 255, "size": 64,
    }  # fmt: skip
    for name, value in others.items():
        if name not in DATA_SETS[source].reads:
            with pytest.raises(
                ValueError, match=f"{name} is given, but source = '{source}' does not read it; it reads "
            ):
                _ = stage_of(source, tmp_path / name, **{name: value}).data


def test_only_what_is_read_enters_the_fingerprint() -> None:
    before = {"boxes", "val_labels", "annotations", "label_separator"}
    assert not before & set(hashed_values(BuildShards(source="toy")))
    assert not before & set(hashed_values(BuildShards(source="voc")))
    assert {"val_labels"} <= set(hashed_values(BuildShards(source="lid")))
    for source in DATA_SETS:
        places = {"root", "lists", "package", "labels", "sbd", "image_folders", "class_list", "mask_folder", "saliency"}
        assert not places & set(hashed_values(BuildShards(source=source)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("ilsvrc_det", {"root": ""}, "root is not set; set it to the folder that contains ILSVRC/Data/DET"),
        (
            "ilsvrc_det",
            {"root": "/none"},
            "root = '/none' is not a folder; set it to the folder that contains IL",
        ),
        ("ilsvrc_det", {"boxes": "masks"}, "boxes = 'masks': ilsvrc_det has no masks; allowed are none, annotations"),
        ("ilsvrc_det", {"splits": ("train", "dev")}, "splits names 'dev'; this data set has only train, val, test"),
        (
            "ilsvrc_det",
            {"lists": {"val": "x.txt"}},
            r"lists.val = 'x.txt' does not exist; looked for .*det/x.txt and .*",
        ),
        (
            "lid",
            {"package": ""},
            "package = '' is not a folder; set it to the folder that contains LID_track1_imageset",
        ),
        ("lid", {"root": ""}, "root is not set; set it to the folder that contains ILSVRC/Data/DET"),
        ("voc", {"sbd": "/none"}, "sbd = '/none': /none holds no folder dataset/cls"),
        ("coco", {"root": "/none"}, "root = '/none' is not a folder"),
        ("coco", {"splits": ("dev",)}, r"annotations has no instances_dev2017.json; set lists.dev to the JSON file"),
        (
            "coco",
            {"image_folders": {"val": "no"}},
            r"coco/no is not a folder; set image_folders.val to the folder of the images",
        ),
        ("folder", {"lists": {"train": "t.csv"}}, "lists.val is not set; set it to the table of that split's images"),
        ("folder", {"boxes": "annotations"}, "folder has no annotated boxes; allowed are none, masks"),
        ("folder", {"mask_folder": "no"}, "mask_folder = 'no' is not a folder in root"),
        (
            "folder",
            {"mask_folder": "."},
            "class_list is not set; set it to the file that lists the class of each mask value",
        ),
        (
            "imagenet_s",
            {"root": "/none"},
            "root = .*none.* is not a folder; set it to the folder that contains val",
        ),
        ("imagenet_s", {"splits": ("train", "dev")}, "splits names 'dev'; this data set has only train, val, test"),
        ("imagenet_s", {"boxes": "annotations"}, "imagenet_s has no annotated boxes; allowed are none, masks"),
        ("imagenet_s", {"class_list": "no.txt"}, "class_list = 'no.txt' is not a file in root; give lines '<wnid> <na"),
        ("toy", {"counts": {"dev": 3}}, "counts.dev does not name a split; splits has train, val"),
    ],
)
def test_settings_that_lead_nowhere(tmp_path: Path, source: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = stage_of(source, tmp_path, **changes).data


SALIENT = ["voc", "ilsvrc_det", "lid", "coco", "folder", "imagenet_s"]


def saliency_path(source: str, listed: Listed, folder: Path) -> Path:
    """Where the map of an image is expected: at its own path below the folder of saliency maps."""
    below = {
        "voc": f"voc/maps/{listed.key}.png",
        "ilsvrc_det": f"det/maps/{listed.split}/{listed.key}.png",
        "lid": f"{'det' if listed.split == 'train' else 'lid'}/maps/{listed.split}/{listed.key}.png",
        "coco": f"coco/maps/{listed.split}2017/{listed.key}.png",
        "folder": f"f/maps/{listed.key}.png",
        "imagenet_s": f"imagenet_s/maps/{FOLDERS[listed.split] if source == 'imagenet_s' else ''}/{listed.key}.png",
    }
    return folder / below[source]


@pytest.mark.parametrize("source", SALIENT)
def test_saliency_maps_lie_at_the_paths_of_their_images(tmp_path: Path, source: str) -> None:
    plain = stage_of(source, tmp_path)
    splits, listings = plain.splits, [plain.data.list_split(split) for split in plain.splits]  # type: ignore[union-attr]
    for listing in listings:
        saliency_path(source, listing[0], tmp_path).parent.mkdir(parents=True, exist_ok=True)
    stage = replace(plain, saliency="maps")
    assert "saliency" in stage.optional_fields(instance_of(stage, tmp_path))
    assert "saliency" not in plain.optional_fields(instance_of(plain, tmp_path))
    signatures = {plain.signature(), stage.signature()}
    assert len(signatures) == 2
    for number, (split, listing) in enumerate(zip(splits, listings, strict=True)):
        data: Any = replace(plain, saliency="maps").data
        listed = data.list_split(split)[0]
        assert data.read(listed).saliency is None, "not every image needs one"
        height, width = data.read(listed).size
        drawn = (np.arange(height * width) + number).reshape(height, width).astype(np.uint8)
        put(saliency_path(source, listing[0], tmp_path), encode_png(drawn))
        np.testing.assert_array_equal(data.read(listed).saliency, drawn)
        signatures.add(replace(plain, saliency="maps").signature())
        assert len(signatures) == 3 + number, "a map that is added makes other shards"
    put(saliency_path(source, listings[0][0], tmp_path), encode_png(drawn[:-1]))
    with pytest.raises(BadSampleError, match=r"the saliency map maps/.* is \d+x\d+, but its image is \d+x\d+"):
        data.read(listings[0][0])


@pytest.mark.parametrize("source", SALIENT)
def test_a_folder_of_saliency_maps_that_is_not_there(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=r"saliency = 'no' is not a folder in root \(looked for .*no\)"):
        _ = stage_of(source, tmp_path, saliency="no").data


def test_images_drawn_in_code_have_no_saliency(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="saliency is given, but source = 'toy' does not read it"):
        _ = stage_of("toy", tmp_path, saliency="maps").data


def test_where_data_sets_are_opened_by_name(tmp_path: Path) -> None:
    kinds = {
        "voc": VocSource,
        "ilsvrc_det": IlsvrcDetSource,
        "lid": LidSource,
        "coco": CocoSource,
        "folder": FolderSource,
        "imagenet_s": ImagenetSSource,
    }
    for source, kind in kinds.items():
        assert isinstance(stage_of(source, tmp_path / source).data, kind)


def test_masks_of_splits_that_are_none(tmp_path: Path) -> None:
    stage = stage_of("voc", tmp_path, masked_splits=("vla",))
    with pytest.raises(ValueError, match="masked_splits names 'vla'; splits has train, val"):
        stage.check(instance_of(stage, tmp_path))


def test_lid_without_train_needs_no_ilsvrc(tmp_path: Path) -> None:
    stage = BuildShards(source="lid", package=str(make_lid(tmp_path)), splits=("val", "test"))
    assert [len(stage.data.list_split(split)) for split in stage.splits] == [2, 1]


def test_coco_files_by_their_own_names(tmp_path: Path) -> None:
    stage = stage_of("coco", tmp_path)
    assert isinstance(stage.data, CocoSource)
    assert {split: path.name for split, path in stage.data.annotations.items()} == {
        "val": "instances_val2017.json",
        "test": "image_info_test2017.json",
    }
    panoptic = stage_of("coco", tmp_path / "again", annotations="panoptic", splits=("val",)).data
    assert isinstance(panoptic, CocoSource) and panoptic.annotations["val"].name == "panoptic_val2017.json"
    own = {"lists": {"val": "annotations/panoptic_val2017.json"}, "image_folders": {"val": "test2017"}}
    chosen = stage_of("coco", tmp_path / "third", splits=("val",), **own).data
    assert isinstance(chosen, CocoSource) and chosen.images == {"val": "test2017"}


def test_the_finished_layer_tells_how_masks_and_labels_compare(tmp_path: Path) -> None:
    stage = stage_of("folder", tmp_path)
    instance = instance_of(stage, tmp_path)
    mask = np.full((13, 19), 255, np.uint8)
    write_shard(instance.layer, "train-000000", [replace(sample("a"), classes=(1,), unknown=(), mask=mask)])
    write_shard(instance.layer, "val-000000", [replace(sample("b"), classes=(2,), unknown=(), mask=mask // 127)])
    instance.layer.complete(["train-000000", "val-000000"], classes=("cat", "dog"))
    found = stage.outcome(instance)
    assert found.metrics == {
        "masks.train.masks": 1.0, "masks.train.lacking": 1.0, "masks.train.unlabelled": 0.0,
        "masks.val.masks": 1.0, "masks.val.lacking": 0.0, "masks.val.unlabelled": 0.0,
    }  # fmt: skip
    assert [note.split(":")[0] for note in found.notes] == ["2 classes (images)", "train", "likely cause"]


@pytest.mark.parametrize("suffix", ["_mask", "_mask.png"])
def test_masks_whose_names_go_on_behind_the_key(tmp_path: Path, suffix: str) -> None:
    stage = stage_of("voc", tmp_path, mask_suffix=suffix)
    assert "mask_suffix" in hashed_values(stage) and "mask_suffix" not in hashed_values(replace(stage, mask_suffix=""))
    masks = Path(stage.root) / "SegmentationClassAug"
    for path in masks.glob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert not isinstance(stage.data, FinishedShards)
    samples = [stage.data.read(listed) for split in stage.splits for listed in stage.data.list_split(split)]
    assert all(found.mask is not None for found in samples)


def test_a_list_that_is_not_there_is_looked_for(tmp_path: Path) -> None:
    expected = r"lists.train = 'T.csv' does not exist; .* \(t.csv exists, in another case"
    with pytest.raises(ValueError, match=expected):
        _ = stage_of("folder", tmp_path, lists={"train": "T.csv", "val": "t.csv"}).data


def test_classes_without_a_list_are_reported_with_their_images(tmp_path: Path) -> None:
    rows = [f"{n}.jpg,{name},{split}" for n, (name, split) in enumerate([("horse", "train")] * 12 + [("hose", "val")])]
    for number in range(13):
        put(tmp_path / "f" / f"{number}.jpg", jpeg(9, 9, seed=number))
    put(tmp_path / "f" / "t.csv", "\n".join(["image,labels,split", *rows]))
    put(tmp_path / "f" / "classes.txt", "horse\nhose\n")
    lists = {"train": "t.csv", "val": "t.csv"}
    stage = BuildShards(source="folder", root=str(tmp_path / "f"), lists=lists)
    instance = instance_of(stage, tmp_path)
    expected = ["2 classes (images): horse 12, hose 1", "the class 'hose' (1 image) is spelt nearly like 'horse' (12)"]
    for lines in (stage.preview(instance), _built(stage, instance).notes):
        assert [line.split(": if it is")[0] for line in lines] == expected
    listed = replace(stage, class_list="classes.txt")
    assert listed.preview(instance) == [] and _built(listed, instance).notes == ()


def _built(stage: BuildShards, instance: Instance) -> Outcome:
    shards, build = stage.shards(instance), stage.worker(instance)
    for shard in shards:
        write_shard(instance.layer, shard, build(shard))
    instance.layer.complete(shards, classes=stage.taxonomy.names)
    return stage.outcome(instance)
