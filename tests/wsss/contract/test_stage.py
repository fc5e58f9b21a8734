from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.records import RunRecord, SeedRecord
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.kept_files import found_files, relative_files
from wsss.contract.stage import Instance
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_seeds import MakeSeeds


@pytest.fixture
def samples(tmp_path: Path) -> Instance:
    shards = [f"{split}-{number:06d}" for split in ("train", "val", "test") for number in range(3)]
    return samples_of(tmp_path, {shard: [sample(shard, np.ones((4, 4), np.uint8))] for shard in shards})


def shards_of(stage: MakeCams, samples: Instance) -> list[str]:
    return stage.shards(instance_of(stage, samples.path.parent, samples=samples))


def test_a_layer_takes_its_splits_from_the_front(samples: Instance) -> None:
    assert shards_of(MakeCams(), samples) == [f"{split}-{n:06d}" for split in ("train", "val") for n in range(3)]
    assert shards_of(MakeCams(max_shards=1, splits=("val", "train")), samples) == ["val-000000", "train-000000"]


def test_split_that_is_not_there(samples: Instance) -> None:
    with pytest.raises(ValueError, match=r"make_cams.splits names 'extra', but samples has only test, train, val"):
        shards_of(MakeCams(splits=("train", "extra")), samples)


def record(instance: Instance, **artifacts: str) -> RunRecord:
    return RunRecord(
        recipe="r",
        instance=instance.name,
        kind=instance.stage.kind,
        fingerprint=instance.fingerprint,
        settings={},
        upstream={},
        git_commit="",
        metrics={},
        artifacts=artifacts,
    )


def test_done_means_record_files_and_every_shard(samples: Instance, tmp_path: Path) -> None:
    label = np.zeros((4, 4), np.uint8)
    names = ["train-000000", "train-000001"]
    shards = {name: [SeedRecord(key=name, label=label)] for name in names}
    stage = MakeSeeds(splits=("train",), max_shards=2)
    seeds = records_of(stage, tmp_path, samples, shards)
    cams = instance_of(MakeCams(), tmp_path / "cams", samples=samples)
    instance = Instance(**{**vars(seeds), "inputs": {"samples": samples, "cams": samples}})
    assert cams.samples is samples and not instance.is_done(), "it has no run record yet"
    instance.write_run_record(record(instance, picture=str(tmp_path / "picture.png")))
    assert not instance.is_done(), "a file of it is gone"
    (tmp_path / "picture.png").touch()
    assert instance.is_done() and instance.run_record() == record(instance, picture=str(tmp_path / "picture.png"))
    tar = instance.layer.tar_path(names[1])
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-1])
    assert not instance.is_done()
    tar.write_bytes(whole)
    assert instance.is_done()
    (samples.path / "index.json").unlink()
    assert not instance.is_done(), "nobody can tell which shards it ought to have"
    (instance.path / "run.json").write_text('{"cut')
    assert instance.run_record() is None


def test_a_moved_folder_stays_done(samples: Instance, tmp_path: Path) -> None:
    """Records hold paths relative to their folder; those of earlier versions held absolute ones."""
    seeds = records_of(MakeSeeds(splits=("train",), max_shards=1), tmp_path / "before" / "store", samples, {})
    cams = instance_of(MakeCams(), tmp_path / "cams", samples=samples)
    before = Instance(**{**vars(seeds), "inputs": {"samples": samples, "cams": cams}})
    picture = before.path / "pictures" / "one.png"
    picture.parent.mkdir()
    picture.write_bytes(b"picture")
    written = record(before, picture=str(picture))
    for absolute in (False, True):
        before.write_run_record(written)
        file = before.path / "run.json"
        assert str(tmp_path) not in file.read_text()
        if absolute:
            file.write_text(json.dumps(vars(written)))
        moved = tmp_path / f"moved-{absolute}"
        shutil.copytree(tmp_path / "before", moved)
        picture.unlink()
        after = replace(before, path=moved / "store" / before.path.name)
        found = after.run_record()
        assert found is not None and found.artifacts == {"picture": str(after.path / "pictures" / "one.png")}
        assert before.run_record() is not None and not before.is_done(), "its file is gone"
        picture.write_bytes(b"picture")


def test_files_outside_the_folder_keep_their_path(tmp_path: Path) -> None:
    inside, outside = tmp_path / "folder" / "a" / "x.png", tmp_path / "y.png"
    files = {"inside": str(inside), "outside": str(outside)}
    written = relative_files(files, folder=tmp_path / "folder")
    assert written == {"inside": "a/x.png", "outside": str(outside)}
    assert found_files(written, folder=tmp_path / "folder") == files, "even if they do not exist"
    inside.parent.mkdir(parents=True)
    inside.touch()
    other = {"inside": "/elsewhere/folder/a/x.png", "gone": "/elsewhere/folder/a/z.png"}
    assert found_files(other, folder=tmp_path / "folder") == {"inside": str(inside), "gone": other["gone"]}
