"""Published code against the stages that run it: irn and psa from activation maps to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from shards.records import CamRecord, PseudoLabel, Record, ScoreRecord
from tests.parity.psa_pairs import published_pairs
from tests.wsss.layers import instance_of, records_of, sample, samples_of
from wsss.contract.stage import Instance, Map
from wsss.data.images import magnify_scores, upsample
from wsss.ops.random_walk import propagate
from wsss.stages.affinity import walk
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.train_affinity import TrainAffinity

DATA = Path(__file__).parent / "data"
SHARD = "train-000000"
CPU = torch.device("cpu")


def load_case(name: str, case: int) -> dict[str, np.ndarray]:
    prefix = f"c{case}_"
    with np.load(DATA / name, allow_pickle=False) as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def made_by(instance: Instance) -> Any:
    """The only record that a stage makes."""
    assert isinstance(instance.stage, Map)
    instance.stage.check(instance)
    (record,) = list(instance.stage.worker(instance)(SHARD))
    return record


def cams_of(path: Path, maps: np.ndarray, *, classes: list[int], size: tuple[int, int]) -> dict[str, Instance]:
    """Samples of one image, and its maps."""
    samples = samples_of(path, {SHARD: [sample("a", None, size=size)]})
    record = CamRecord(key="a", classes=np.array(classes, np.int16), maps=maps, size=size)
    return {"samples": samples, "cams": records_of(MakeCams(), path, samples, {SHARD: [record]})}


class Boundaries(torch.nn.Module):
    """Instead of IRNet: the given boundary probabilities, mirrored for the mirror image."""

    def __init__(self, edge_hw: torch.Tensor) -> None:
        super().__init__()
        logits_hw = torch.logit(edge_hw.double())
        self.logits_21hw = torch.stack([logits_hw, logits_hw.flip(-1)])[:, None]

    def edge_logits(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        assert len(image_B3HW) == 2
        return self.logits_21hw


def labels_from(path: Path, scores: Instance, record: Record, **settings: Any) -> PseudoLabel:
    made = records_of(scores.stage, path / "made", scores.inputs["samples"], {SHARD: [record]})  # type: ignore[arg-type]
    stage = MakePseudoLabels(splits=("train",), refine="none", **settings)
    label: PseudoLabel = made_by(instance_of(stage, path, samples=scores.inputs["samples"], scores=made))
    return label


@pytest.mark.parametrize("case", range(3))
def test_irns_walk_to_label(case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of step/make_sem_seg_labels.py, where the two best scores differ by more than 1e-3."""
    golden = load_case("irn_random_walk.npz", case)
    height, width = (int(side) for side in golden["full_size"])
    classes = golden["keys"][1:].tolist()
    inputs = cams_of(tmp_path, golden["x"], classes=classes, size=(height, width))
    edge_hw = torch.from_numpy(golden["edge"])
    monkeypatch.setattr(walk, "load_trained", lambda *_, **__: Boundaries(edge_hw))
    settings: dict[str, Any] = {
        "radius": int(golden["radius"]),
        "beta": float(golden["beta"]),
        "num_steps_log2": int(golden["exp_times"]),
    }
    irnet = instance_of(TrainAffinity(), tmp_path, samples=inputs["samples"])
    scores = instance_of(MakeScores(splits=("train",), **settings), tmp_path, **inputs, affinity=irnet)
    record: ScoreRecord = made_by(scores)
    at_pixels = magnify_scores(record.scores, (height, width), device=CPU)
    if case == 0:
        torch.testing.assert_close(at_pixels, torch.from_numpy(golden["rw_up_norm"]), rtol=1e-3, atol=1e-5)
    assert float(at_pixels.max()) == pytest.approx(1, abs=1e-3)
    label = labels_from(tmp_path, scores, record, background_threshold=float(golden["sem_seg_bg_thres"]))
    sure = golden["sem_seg_sure"]
    assert sure.mean() > 0.99
    assert np.array_equal(label.mask[sure], golden["sem_seg_label"][sure])
    assert (label.mask != golden["sem_seg_label"]).mean() < 2e-4

    # Resizing the grid to the image, or the maximum of the grid, would give other labels.
    stretched = upsample(record.scores, (height, width), device=CPU)
    planes = torch.cat([torch.full((1, height, width), float(golden["sem_seg_bg_thres"])), stretched])
    assert (golden["keys"][planes.argmax(0).numpy()] != golden["sem_seg_label"])[sure].mean() > 0.01


class Features(torch.nn.Module):
    """Instead of AffinityNet: the given features."""

    def __init__(self, features_1Dhw: torch.Tensor) -> None:
        super().__init__()
        self.features_1Dhw = features_1Dhw

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        assert len(image_B3HW) == 1
        return self.features_1Dhw


def published_feature_walk(planes_BLhw: torch.Tensor, *, features_Dhw: torch.Tensor, **steps: Any) -> torch.Tensor:
    """`feature_walk` with the pairs of the public code alone, which omits some near the border."""
    affinity_Phw = published_pairs(features_Dhw[0], radius=steps["radius"]).pow(steps["beta"])
    walked = propagate(
        planes_BLhw[0].double(),
        affinity_Phw=affinity_Phw,
        radius=steps["radius"],
        num_steps_log2=steps["num_steps_log2"],
        tolerance=1e-9,
    )
    return walked[None].float()


@pytest.mark.parametrize("case", range(2))
def test_psas_walk_to_label(case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of infer_aff.py, with its pairs, from maps of stride 4 instead of the image's size.

    0.4 and 0.6 % of the pixels differ. With all pairs, as `feature_walk` has them, 5 and 12 % would: these grids of
    17 x 23 and 19 x 13 cells are small enough that most cells are near a border.
    """
    golden = load_case("psa.npz", case)
    cam_KHW, size = torch.from_numpy(golden["rw_cam"]), golden["rw_label"].shape
    maps = functional.avg_pool2d(cam_KHW, 4, ceil_mode=True, count_include_pad=False)
    inputs = cams_of(tmp_path, maps.numpy(), classes=(golden["rw_keys0"] + 1).tolist(), size=size)
    monkeypatch.setattr(walk, "load_trained", lambda *_, **__: Features(torch.from_numpy(golden["feature"])))
    monkeypatch.setattr(walk, "feature_walk", published_feature_walk)
    settings: dict[str, Any] = {
        "radius": int(golden["radius"]),
        "beta": float(golden["rw_beta"]),
        "num_steps_log2": int(golden["rw_logt"]),
        "background_exponent": float(golden["rw_alpha"]),
    }
    stage = TrainAffinity(network="affinitynet", output_stride=8)
    affinitynet = instance_of(stage, tmp_path, samples=inputs["samples"])
    scores = instance_of(MakeScores(splits=("train",), **settings), tmp_path, **inputs, affinity=affinitynet)
    label = labels_from(tmp_path, scores, made_by(scores), background="propagated")
    differs = label.mask != golden["rw_label"]
    assert differs.mean() < 0.008
    assert set(np.unique(label.mask)) == set(np.unique(golden["rw_label"]))
