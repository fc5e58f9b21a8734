from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shards.records import CamRecord, InstanceLabel
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.stage import Instance
from wsss.stages import make_instance_labels
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels, boundary_and_displacement
from wsss.stages.train_affinity import TrainAffinity

GRID = (17, 29)
SIZE = (67, 115)
CENTRES = ((8, 7), (8, 21))


class TwoObjects(nn.Module):
    """Stands for IRNet: no boundaries, and a field that points at the centre of one half of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.device_of = nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        row, column = torch.meshgrid(*(torch.arange(side) for side in GRID), indexing="ij")
        left = column < 14
        to_centre = [torch.where(left, *(c[axis] - place for c in CENTRES)) for axis, place in enumerate((row, column))]
        return self.edge_logits(image), torch.stack(to_centre)[None].float()

    def edge_logits(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        logits = torch.full((1, 1, *GRID), -9.0)
        logits[..., 0] = float(len(self.seen))  # the first column tells which view it was
        return logits


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> TwoObjects:
    made = TwoObjects()
    monkeypatch.setattr(make_instance_labels, "load_trained", lambda instance, device: made)
    return made


def prepared(path: Path, maps: np.ndarray, classes: list[int], *, affinity: Any = None, **settings: Any) -> Instance:
    cams = CamRecord(key="a", classes=np.array(classes, np.int16), maps=maps.astype(np.float16), size=SIZE)
    samples = samples_of(path, {"train-000000": [sample("a", None, size=SIZE)]})
    made = records_of(MakeCams(), path, samples, {"train-000000": [cams]})
    trained = instance_of(affinity or TrainAffinity(), path, samples=samples)
    stage = MakeInstanceLabels(splits=("train",), radius=2, num_steps_log2=2, **settings)
    return instance_of(stage, path, samples=samples, cams=made, affinity=trained)


def label_of(instance: Instance) -> InstanceLabel:
    assert isinstance(instance.stage, MakeInstanceLabels)
    instance.stage.check(instance)
    (record,) = instance.stage.worker(instance)("train-000000")
    assert isinstance(record, InstanceLabel) and record.key == "a"
    assert (record.instances.dtype, record.instances.shape) == (np.uint16, SIZE)
    assert (record.classes.dtype, record.scores.dtype) == (np.int16, np.float16)
    assert record.instances.max() == len(record.classes) == len(record.scores)
    return record


def test_two_objects_of_one_class(network: TwoObjects, tmp_path: Path) -> None:
    label = label_of(prepared(tmp_path, np.ones((1, *GRID)), [5]))
    assert label.classes.tolist() == [5, 5]
    assert [label.instances[33, column] for column in (29, 85)] == [1, 2]
    assert (label.scores > 0.5).all() and label.scores.max() == 1
    assert label.mask.dtype == np.uint8 and label.mask[33, 29] == label.mask[33, 85] == 5


def test_two_classes_in_one_group(network: TwoObjects, tmp_path: Path) -> None:
    maps = np.zeros((2, *GRID))
    maps[0, :8, :14], maps[1, 8:, :14] = 1.0, 1.0
    label = label_of(prepared(tmp_path, maps, [3, 200]))
    assert label.classes.tolist() == [3, 200]
    assert (label.mask[10, 25], label.mask[55, 25], label.mask[33, 90]) == (3, 200, 0)


@pytest.mark.parametrize("num_classes", [0, 2])
def test_image_without_classes_or_with_empty_maps(network: TwoObjects, tmp_path: Path, num_classes: int) -> None:
    label = label_of(prepared(tmp_path, np.zeros((num_classes, *GRID)), [4, 9][:num_classes]))
    assert not label.instances.any() and len(label.classes) == 0 and not label.mask.any()
    of_image = [one for one in network.seen if one.shape[-2:] == SIZE]  # besides the probe of `for_inference`
    assert len(of_image) == (2 if num_classes else 0), "an image without classes needs no network"


def test_settings_reach_their_places(network: TwoObjects, tmp_path: Path) -> None:
    maps = np.ones((1, *GRID))
    assert len(label_of(prepared(tmp_path / "a", maps, [5], min_area=0.9)).classes) == 0
    assert label_of(prepared(tmp_path / "b", maps, [5], centroid_threshold=99.0)).classes.tolist() == [5]
    still = label_of(prepared(tmp_path / "c", maps, [5], num_refinements=0, min_area=1e-4))
    assert len(still.classes) == 3, "two centres and what never got there"
    maps[:, :, 14:] = 0.1
    assert label_of(prepared(tmp_path / "d", maps, [5])).classes.tolist() == [5]
    low = prepared(tmp_path / "e", maps, [5], background_threshold=0.05)
    assert label_of(low).classes.tolist() == [5, 5]


def test_boundaries_are_the_mean_of_both_views_and_the_field_is_the_images(network: TwoObjects) -> None:
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    edge_hw, displacement = boundary_and_displacement(network, image)  # type: ignore[arg-type]
    assert torch.equal(network.seen[0], image) and torch.equal(network.seen[1], image.flip(-1))
    expected = torch.sigmoid(torch.tensor([(1 - 9) / 2, -9.0, (2 - 9) / 2]))
    torch.testing.assert_close(edge_hw[0, [0, 14, -1]], expected)
    assert displacement[0, 1, 0, 0] == 7


def test_networks_without_a_displacement_field_are_refused(tmp_path: Path) -> None:
    other = TrainAffinity(network="affinitynet", output_stride=8)
    instance = prepared(tmp_path, np.ones((1, *GRID)), [5], affinity=other)
    message = (
        "make_instance_labels needs IRNet's displacement field, which train_affinity.network = 'affinitynet' does "
        'not have; set train_affinity.network = "irnet", or name another training in '
        "make_instance_labels.inputs.affinity"
    )
    with pytest.raises(ValueError, match=message):
        instance.stage.check(instance)
