"""predict: what subsets of the views give, the dense CRF behind them, and memory that does not grow with the image."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shards.images import encode_png
from shards.records import Prediction, Sample, grid_size
from tests.wsss.layers import instance_of, samples_of
from wsss.contract.settings import hashed_values, inactive_settings
from wsss.ops import tta
from wsss.ops.dense_crf import unary_from_probabilities
from wsss.ops.tta import predict_views
from wsss.stages.predict import Predict
from wsss.stages.segmenter import predictor
from wsss.stages.segmenter.predictor import Predictor
from wsss.stages.train_segmenter import TrainSegmenter

SHARD, SIZE, NUM_CLASSES = "val-000000", (53, 67), 7
TRAINED: Any = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SETTINGS: dict[str, Any] = {
    "none": {"scales": (1.0,), "flip": False},
    "flip": {"scales": (1.0,), "flip": True},
    "scales": {"scales": (0.5, 1.5), "flip": False},
    "all": {"scales": (0.5, 1.5), "flip": True},
}


class Network(nn.Module):
    """Two convolutions, with the interface of a segmenter of output stride 8 and a decoder of stride 4."""

    corner_to_corner = True

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Conv2d(3, 8, 8, stride=4, padding=2)
        self.second = nn.Conv2d(8, num_classes, 3, padding=1)
        self.second.weight.data *= 6
        self.views: list[tuple[int, ...]] = []

    def strided_logits(self, image: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        self.views.append(tuple(image.shape[-2:]))
        extended = F.pad(image, (0, -image.shape[-1] % 8, 0, -image.shape[-2] % 8), mode="replicate")
        return self.second(self.first(extended).tanh()), (extended.shape[-2], extended.shape[-1])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits, extended = self.strided_logits(image)
        whole = F.interpolate(logits, size=extended, mode="bilinear", align_corners=True)
        return whole[..., : image.shape[-2], : image.shape[-1]]


def photo(size: tuple[int, int] = SIZE) -> Sample:
    image = torch.rand(1, 3, size[0] // 6 + 1, size[1] // 6 + 1, generator=torch.Generator().manual_seed(5))
    pixels = (255 * F.interpolate(image, size=size, mode="bilinear")[0]).byte().permute(1, 2, 0).numpy()
    return Sample(key="a", encoded=encode_png(np.ascontiguousarray(pixels)), size=size, classes=())


def predicted(stage: Predict, network: Network | None = None, sample: Sample | None = None) -> Prediction:
    return Predictor(stage, network or Network(), TRAINED).prediction(sample or photo())


@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_prediction_by_its_definition(merge: Any) -> None:
    made = predicted(Predict(scales=(0.5, 1.0, 2.0), merge=merge))
    network, stage = Network(), Predict()
    merged = predict_views(
        stage.image(photo(), network, TRAINED),
        network=network,
        scales=(0.5, 1.0, 2.0),
        flips=(False, True),
        merge=merge,
    )[0]
    probability = merged.softmax(0) if merge == "mean_logits" else merged
    two = merged.topk(2, dim=0).values
    sure = (two[0] - two[1] > 1e-4).numpy()
    assert sure.mean() > 0.99 and len(np.unique(made.mask)) > 3
    np.testing.assert_array_equal(made.mask[sure], merged.argmax(0).byte().numpy()[sure])
    confidence = F.interpolate(probability.amax(0)[None, None], size=grid_size(SIZE), mode="bilinear")[0, 0]
    np.testing.assert_allclose(made.confidence, 255 * confidence.detach().numpy(), atol=0.51)
    assert made.mask.dtype == made.confidence.dtype == np.uint8 and made.ablation == {}


@pytest.mark.parametrize("network", ["deeplabv3plus", "largefov", "aspp"])
def test_every_network_that_can_be_trained_predicts(network: Any, tmp_path: Path) -> None:
    """As its own forward pass on one view, for an image whose sides are no multiple of the output stride."""
    shards = samples_of(tmp_path, {SHARD: [photo()]})
    settings: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "dilated": False}
    stage = TrainSegmenter(**settings, network=network, output_stride=16 if network == "deeplabv3plus" else 8)
    torch.manual_seed(7)
    made = stage.model(instance_of(stage, tmp_path, samples=shards), pretrained=False).eval()
    for layer in made.modules():  # a head begins with logits of next to nothing
        if isinstance(layer, nn.Conv2d) and layer.out_channels == 6:
            layer.weight.data *= 1000
    views = Predict(scales=(1.0,), flip=False)
    found = Predictor(views, made, stage).prediction(photo())
    with torch.no_grad():
        logits = made(views.image(photo(), made, stage))[0]
    two = logits.topk(2, dim=0).values
    sure = (two[0] - two[1] > 1e-4).numpy()
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found.mask[sure], logits.argmax(0).byte().numpy()[sure])


@pytest.mark.parametrize("refine", ["none", "crf"])
@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_subsets_are_what_their_own_settings_give(merge: Any, refine: Any) -> None:
    others = {"merge": merge, "refine": refine, "crf_iterations": 2}
    network = Network()
    made = predicted(Predict(ablation=("none", "flip", "scales", "all"), **SETTINGS["all"], **others), network)
    assert sorted(network.views) == sorted([SIZE, SIZE, (27, 34), (27, 34), (80, 101), (80, 101)]), "each view once"
    for name, of_subset in SETTINGS.items():
        alone = predicted(Predict(**of_subset, **others))
        np.testing.assert_array_equal(made.ablation[name], alone.mask)
        if name == "all":
            np.testing.assert_array_equal(made.mask, alone.mask)
            np.testing.assert_array_equal(made.confidence, alone.confidence)
    assert len({mask.tobytes() for mask in made.ablation.values()}) == 4


def test_only_the_views_that_are_asked_for() -> None:
    network = Network()
    made = predicted(Predict(scales=(1.0,), flip=False, ablation=("none", "flip")), network)
    assert len(network.views) == 2
    np.testing.assert_array_equal(made.mask, made.ablation["none"])
    with pytest.raises(ValueError, match="values must be unique, got 'flip' more than once"):
        Predict(ablation=("flip", "flip"))


def test_longest_side_of_a_view() -> None:
    network = Network()
    made = predicted(Predict(scales=(1.0, 2.0, 4.0), flip=False, max_side=96), network)
    assert network.views == [SIZE, (76, 96)], "two views of one size are one, and count twice"
    assert made.mask.shape == SIZE


@pytest.mark.parametrize("merge", ["mean_logits", "max"])
def test_bands_change_nothing(merge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Predict(merge=merge, refine="crf", crf_iterations=1, ablation=("none", "scales"))
    whole = predicted(stage)
    monkeypatch.setattr(tta, "_BAND_VALUES", 5 * NUM_CLASSES * SIZE[1])
    banded = predicted(stage)
    np.testing.assert_array_equal(whole.mask, banded.mask)
    np.testing.assert_array_equal(whole.confidence, banded.confidence)
    for name, mask in whole.ablation.items():
        np.testing.assert_array_equal(mask, banded.ablation[name])


def test_crf_sees_the_classes_that_win_or_are_probable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def noted(share_KHW: torch.Tensor) -> torch.Tensor:
        seen.append(share_KHW.clone())
        return unary_from_probabilities(share_KHW)

    monkeypatch.setattr(predictor, "unary_from_probabilities", noted)
    network, views = Network(num_classes=201), {"scales": (1.0,), "flip": False}
    plain = predicted(Predict(**views), network)
    stage = Predict(refine="crf", crf_class_threshold=0.2, crf_iterations=2, **views)
    refined = predicted(stage, network)
    with torch.no_grad():
        probability = network(stage.image(photo(), network, TRAINED))[0].softmax(0)
    ids = sorted(set(np.unique(plain.mask).tolist()) | set((probability.amax((1, 2)) >= 0.2).nonzero()[:, 0].tolist()))
    assert 2 < len(ids) < 201
    torch.testing.assert_close(seen[0], probability[ids] / probability[ids].sum(0), rtol=1e-4, atol=1e-5)
    assert set(np.unique(refined.mask).tolist()) <= set(ids)
    image = torch.from_numpy(photo().image.copy()).numpy()
    wanted = stage.refine_energy(unary_from_probabilities(seen[0]), image)
    np.testing.assert_array_equal(refined.mask, np.array(ids)[wanted.argmax(0).numpy()])
    assert not np.array_equal(refined.mask, plain.mask)


def test_settings_of_the_crf_are_read_with_it() -> None:
    assert {"crf_iterations", "crf_class_threshold", "crf_label_confidence"} <= inactive_settings(Predict()).keys()
    assert inactive_settings(Predict(refine="crf", labels="given")).keys() == {"crf_label_confidence", "prior_weight"}


def test_trained_segmenter(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from wsss.contract.fit import weights_path

    shards = samples_of(tmp_path, {SHARD: [photo()]})
    trained = instance_of(TrainSegmenter(encoder="test_efficientnet", pretrained="none"), tmp_path, samples=shards)
    trained.path.mkdir()
    assert isinstance(trained.stage, TrainSegmenter)
    save_file(trained.stage.model(trained, pretrained=True).state_dict(), weights_path(trained))
    stage = Predict(ablation=("none",))
    (made,) = stage.worker(instance_of(stage, tmp_path, samples=shards, segmenter=trained))(SHARD)
    assert isinstance(made, Prediction) and made.mask.shape == made.ablation["none"].shape == SIZE


@pytest.mark.parametrize("refine", ["none", "crf"])
@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_given_labels_keep_absent_classes_out(merge: Any, refine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {**SETTINGS["all"], "merge": merge, "refine": refine, "crf_iterations": 1}
    free, sample = predicted(Predict(**views)), replace(photo(), classes=(2, 5), unknown=(6,))
    stage = Predict(**views, labels="given", ablation=("none",))
    given = predicted(stage, sample=sample)
    assert set(np.unique(free.mask).tolist()) - {0, 2, 5, 6}, "there is something to keep out"
    for mask in (given.mask, given.ablation["none"]):
        assert set(np.unique(mask).tolist()) <= {0, 2, 5, 6}
    allowed = np.isin(free.mask, [0, 2, 5, 6])
    if refine == "none":
        np.testing.assert_array_equal(given.mask[allowed], free.mask[allowed])
        assert (given.confidence >= free.confidence).mean() > 0.5, "of fewer classes the winner is surer"
    monkeypatch.setattr(tta, "_BAND_VALUES", 5 * NUM_CLASSES * SIZE[1])
    banded = predicted(stage, sample=sample)
    np.testing.assert_array_equal(given.mask, banded.mask)
    np.testing.assert_array_equal(given.confidence, banded.confidence)
    nothing = predicted(stage, sample=replace(photo(), classes=()))
    assert not nothing.mask.any() and (nothing.confidence == 255).all(), "no class is there: all background"


def test_labels_enter_a_fingerprint_only_where_given() -> None:
    assert "labels" not in hashed_values(Predict()) and hashed_values(Predict(labels="given"))["labels"] == "given"


PEAK = """
from tests.peak_memory import peak_bytes
from tests.wsss.stages.test_predict import Network, Predict, photo, predicted
network = Network(num_classes=201)
stage = Predict(scales=(1.0,), ablation=("none",))
predicted(stage, network, photo((96, 96)))
sample = photo((1100, 1003))
before = peak_bytes()
predicted(stage, network, sample)
print((peak_bytes() - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_memory_of_a_large_image_with_201_classes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=300
    )
    assert done.returncode == 0, done.stderr
    # The logits of one view at full size are 846 MiB, and their sum another; on the grids of both views 106 MiB.
    assert float(done.stdout) < 400


def test_scales_of_a_long_side() -> None:
    """Views are those of the resized image; the mask keeps the image's own size, and max_side still limits views."""
    network = Network()
    made = predicted(Predict(scales=(0.5, 1.0, 2.0), flip=False, long_side=100, max_side=160), network)
    assert network.views == [(40, 50), (79, 100), (126, 160)] and made.mask.shape == SIZE
    image_13HW = Predict(long_side=100).image(photo(), network, TRAINED)
    assert tuple(image_13HW.shape[-2:]) == (79, 100)
    merged = predict_views(
        image_13HW, network=network, scales=(0.5, 1.0), flips=(False, True), merge="mean_logits", size=SIZE
    )[0]
    found = predicted(Predict(scales=(0.5, 1.0), long_side=100), network)
    two = merged.topk(2, dim=0).values
    sure = (two[0] - two[1] > 1e-4).numpy()
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found.mask[sure], merged.argmax(0).byte().numpy()[sure])


def test_a_tiny_view_of_a_long_side() -> None:
    network = Network()
    made = predicted(Predict(scales=(0.05,), flip=False, long_side=20), network)
    assert network.views == [(1, 1)] and made.mask.shape == SIZE
