"""Map stages whose GPU runs out of memory: a network that raises torch's error above a number of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import shard_work
from shards.records import RunRecord
from tests.pipeline.chain import files, pretend_trained, run, tiny
from tests.wsss.layers import instance_of
from tests.wsss.stages.test_make_cams import CLASSIFIER, make, picture, train_at_random
from wsss.contract import device
from wsss.contract.failure import OutOfGpuMemoryError
from wsss.contract.shard_times import note_seconds
from wsss.contract.stage import Instance
from wsss.models.classifier import Classifier
from wsss.models.inference import _PROBE_SIZE, _USUAL_SIZE
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.work_measurements import memory_notes
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

Features = Callable[[Classifier, torch.Tensor], torch.Tensor]


def limit(monkeypatch: pytest.MonkeyPatch, images: int) -> list[int]:
    """Let the network's memory hold so many images; returns the sizes of the batches that were tried."""
    features: Features = Classifier.features
    tried: list[int] = []

    def limited(network: Classifier, image_B3HW: torch.Tensor) -> torch.Tensor:
        if tuple(image_B3HW.shape[-2:]) in (_PROBE_SIZE, _USUAL_SIZE):  # `for_inference` looks at these
            return features(network, image_B3HW)
        tried.append(len(image_B3HW))
        if len(image_B3HW) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return features(network, image_B3HW)

    monkeypatch.setattr(Classifier, "features", limited)
    return tried


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    return train_at_random(tmp_path, CLASSIFIER, [picture(f"k{n}", (4, 1)) for n in range(5)])


@pytest.fixture
def stochastic(tmp_path: Path) -> Instance:
    stage = TrainClassifier(
        encoder="test_efficientnet", pretrained="none", dilated=False, head="stochastic", stochastic_kernel=3
    )
    return train_at_random(tmp_path, stage, [picture(f"k{n}", (4, 1)) for n in range(2)])


@pytest.mark.parametrize(("images", "in_vain"), [(4, [8]), (2, [8, 4]), (1, [8, 4, 2, 2])])
def test_maps_are_those_of_smaller_batches(
    trained: Instance, monkeypatch: pytest.MonkeyPatch, images: int, in_vain: list[int]
) -> None:
    wanted = make(trained, batch_images=1)
    tried = limit(monkeypatch, images)
    found = make(trained, batch_images=4)
    assert found.keys() == wanted.keys()
    for key, record in found.items():
        np.testing.assert_allclose(record.maps, wanted[key].maps, atol=1e-3)
    # Four images and their mirror images at first; the last one of a smaller scale, for which two may have fitted.
    assert [number for number in tried if number > images] == in_vain


def test_stochastic_maps_do_not_depend_on_how_views_were_divided(
    stochastic: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = {"method": "stochastic", "num_samples": 7, "scales": (1.0,)}
    wanted = make(stochastic, **draw)
    tried = limit(monkeypatch, 1)
    for key, record in make(stochastic, **draw).items():
        np.testing.assert_allclose(record.maps, wanted[key].maps, atol=1e-3)
        np.testing.assert_allclose(record.peak, wanted[key].peak, atol=1e-3)  # type: ignore[arg-type]
    assert tried == [2, 1, 1, 1, 1]


def maps_of(runs: Path, *overrides: str) -> tuple[Recipe, Instance]:
    recipe = tiny(runs, "make_cams.batch_images=4", *overrides)
    run(recipe, last="build_shards")
    torch.manual_seed(7)
    pretend_trained(recipe.instance("train_classifier"))
    return recipe, recipe.instance("make_cams")


def record_of(instance: Instance) -> RunRecord:
    record = instance.run_record()
    assert record is not None
    return record


def test_the_run_record_says_what_was_processed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawn images have different sizes, so that each is alone with its mirror image."""
    recipe, maps = maps_of(tmp_path)
    limit(monkeypatch, 1)
    seen: list[Any] = []
    monkeypatch.setattr("wsss.pipeline.progress.Reporter.notes", lambda self, name, notes: seen.append((name, notes)))
    run(recipe, first="make_cams", last="make_cams")
    assert record_of(maps).work["fewer.views"] == 1.0
    ((name, (line,)),) = seen
    assert name == "make_cams" and "too small for the largest images together with their mirror images" in line


def test_the_smallest_number_of_all_workers_is_noted(tmp_path: Path) -> None:
    instance = instance_of(MakeCams(batch_images=8), tmp_path)
    instance.path.mkdir()
    assert memory_notes(instance) == []
    for shard, number in (("a", 4.0), ("b", 2.0)):
        note_seconds(instance.path, shard, 1.0, {"fewer.batch_images": number})
    (line,) = memory_notes(instance)
    assert "too small for 8 of the largest images together, and 2 were processed" in line
    assert "with make_cams.batch_images = 2 nothing is tried in vain" in line


def test_one_image_that_does_not_fit_names_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, _ = maps_of(tmp_path)
    limit(monkeypatch, 0)
    with pytest.raises(OutOfGpuMemoryError) as caught:
        run(recipe, first="make_cams", last="make_cams")
    message = str(caught.value)
    assert message.startswith("make_cams: the GPU's memory is too small for a single image; change one of ")
    assert "make_cams.max_side = 2048, make_cams.scales = (1.0, 0.5), or use a GPU with more memory" in message
    assert "CUDA out of memory" in message and "batch_images" not in message


def test_threads_beside_the_network_change_no_byte_and_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an actor with a GPU: decoding ahead, writing behind."""
    recipe, maps = maps_of(tmp_path / "alone")
    run(recipe, first="make_cams", last="make_cams")
    assert "idle_share" not in record_of(maps).work
    monkeypatch.setattr(shard_work, "choose_device", lambda *, gpus, cpus: device.decode_beside(2))
    try:
        recipe, beside = maps_of(tmp_path / "beside")
        run(recipe, first="make_cams", last="make_cams")
    finally:
        device.decode_beside(0)
    mine, theirs = files(beside), files(maps)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name] == theirs[name], name
    work = record_of(beside).work
    assert 0 < work["idle_share"] < 1 and work["queue_length"] >= 0
    waited = work["read_wait_seconds"] + work["write_wait_seconds"]
    assert work["idle_share"] == pytest.approx(waited / work["seconds"])
    json.dumps(work)
