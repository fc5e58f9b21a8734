from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.records import RunRecord, SeedRecord
from tests.wsss.layers import instance_of, records_of, sample, samples_of
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
