"""A classifier's probabilities as weights of the classes that a segmenter predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.wsss.layers import instance_of, samples_of
from tests.wsss.stages.test_predict import NUM_CLASSES, SETTINGS, SHARD, TRAINED, Network, photo, predicted
from wsss.contract.fit import weights_path
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.ops.tta import predict_views
from wsss.stages.predict import Predict
from wsss.stages.segmenter.classifier_prior import ClassifierPrior
from wsss.stages.segmenter.predictor import Predictor
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter


class Looks(nn.Module):
    """Stands for a classifier: its logits depend on the view, also on whether it is mirrored."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(6)
        self.weight = nn.Parameter(4 * torch.randn(NUM_CLASSES - 1, 3, generator=generator))
        self.views: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.views.append(tuple(image.shape[-2:]))
        left = image[..., : image.shape[-1] // 3].mean((2, 3))
        return left @ self.weight.T


def prior_of(stage: Predict, network: Looks) -> ClassifierPrior:
    return ClassifierPrior(stage, network, TRAINED, weight=stage.prior_weight)


def weighted(stage: Predict, sample: Any = None) -> Any:
    return Predictor(stage, Network(), TRAINED, prior=prior_of(stage, Looks())).prediction(sample or photo())


def test_log_weights_by_their_definition() -> None:
    stage, network = Predict(**SETTINGS["all"], prior_weight=0.7, long_side=100, max_side=120), Looks()
    found = prior_of(stage, network).log_weights(photo())
    assert sorted(network.views) == sorted([(40, 50)] * 2 + [(95, 120)] * 2), "as the segmenter's, at least 32 pixels"
    image_13HW = torch.from_numpy(photo().image.copy()).permute(2, 0, 1)[None] / 255 * 4 - 2
    logits = []
    for size in ((40, 50), (95, 120)):
        view = nn.functional.interpolate(image_13HW, size=size, mode="bilinear", antialias=True)
        logits += [network(view)[0], network(view.flip(-1))[0]]
    mean = torch.stack(logits).mean(0)
    assert found[0] == 0 and len(found) == NUM_CLASSES
    torch.testing.assert_close(found[1:], 0.7 * torch.sigmoid(mean).log(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "max"])
def test_prediction_by_its_definition(merge: Any) -> None:
    stage, network = Predict(merge=merge, prior_weight=1.5), Network()
    made = weighted(stage)
    log_weights = prior_of(stage, Looks()).log_weights(photo())
    merged = predict_views(
        stage.image(photo(), network, TRAINED), network=network, scales=stage.scales, flips=(False, True), merge=merge
    )[0]
    probability = (merged.softmax(0) if merge == "mean_logits" else merged) * log_weights.exp()[:, None, None]
    probability /= probability.sum(0)
    two = probability.topk(2, dim=0).values
    sure = (two[0] - two[1] > 1e-4).numpy()
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(made.mask[sure], probability.argmax(0).byte().numpy()[sure])
    plain = predicted(Predict(merge=merge))
    assert not np.array_equal(made.mask, plain.mask)
    assert (made.mask == 0).sum() >= (plain.mask == 0).sum(), "the background keeps its probability, the others lose"


@pytest.mark.parametrize("refine", ["none", "crf"])
def test_with_given_labels_subsets_and_the_crf(refine: Any) -> None:
    given = {"labels": "given", "refine": refine, "crf_iterations": 1, "prior_weight": 1.0, "ablation": ("none", "all")}
    sample = replace(photo(), classes=(2, 5))
    made = weighted(Predict(**SETTINGS["all"], **given), sample)  # type: ignore[arg-type]
    assert set(np.unique(made.mask).tolist()) <= {0, 2, 5}
    np.testing.assert_array_equal(made.mask, made.ablation["all"])


def test_the_crf_starts_from_the_weighted_probabilities() -> None:
    settings = {"refine": "crf", "crf_iterations": 1}
    made = weighted(Predict(prior_weight=1.5, **settings))  # type: ignore[arg-type]
    plain = predicted(Predict(**settings))  # type: ignore[arg-type]
    assert (made.mask == 0).sum() > (plain.mask == 0).sum(), "the background keeps its probability, the others lose"


def test_mask_and_probabilities_agree() -> None:
    stage = Predict(prior_weight=1.0)
    made = Predictor(stage, Network(), TRAINED, prior=prior_of(stage, Looks()))
    mask, probability = made.probabilities(photo())
    np.testing.assert_array_equal(mask.numpy(), made.prediction(photo()).mask)
    torch.testing.assert_close(probability.sum(0), torch.ones_like(probability[0]))


def test_an_image_is_looked_at_once() -> None:
    stage, network = Predict(**SETTINGS["all"], prior_weight=1.0, refine="crf", crf_iterations=1), Looks()
    made = Predictor(stage, Network(), TRAINED, prior=prior_of(stage, network))
    made.prediction(photo())
    assert len(network.views) == 4
    made.prediction(photo())
    assert len(network.views) == 8, "another sample"


def trained_on(path: Path, **settings: Any) -> Instance:
    """An instance of predict with a trained segmenter and a trained classifier."""
    shards, inputs = samples_of(path, {SHARD: [photo()]}), {}
    encoder: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none"}
    torch.manual_seed(2)
    for slot, stage in (("segmenter", TrainSegmenter(**encoder)), ("classifier", TrainClassifier(**encoder))):
        trained = instance_of(stage, path, samples=shards)
        trained.path.mkdir()
        save_file(stage.model(trained, pretrained=True).state_dict(), weights_path(trained))  # type: ignore[attr-defined]
        inputs[slot] = trained
    stage = Predict(**settings)
    return instance_of(stage, path, samples=shards, **{slot: inputs[slot] for slot in stage.used_slots()[1:]})


def test_trained_networks(tmp_path: Path) -> None:
    made = {}
    for weight in (0.0, 3.0):
        instance = trained_on(tmp_path / str(weight), prior_weight=weight)
        assert isinstance(instance.stage, Predict)
        instance.stage.check(instance)
        assert ("classifier" in instance.inputs) == (weight > 0)
        (made[weight],) = instance.stage.worker(instance)(SHARD)
    assert not np.array_equal(made[0.0].confidence, made[3.0].confidence)  # type: ignore[union-attr]


def test_a_classifier_of_some_classes_is_refused(tmp_path: Path) -> None:
    instance = trained_on(tmp_path, prior_weight=1.0)
    name = instance.taxonomy.names[2]
    without = replace(instance.inputs["classifier"], stage=TrainClassifier(dropped_classes=(name,)))
    instance = replace(instance, inputs={**instance.inputs, "classifier": without})
    with pytest.raises(ValueError, match=f"prior_weight = 1.0 needs .* does not learn '{name}' \\(1 such\\); name a"):
        instance.stage.check(instance)


def test_without_a_prior_neither_slot_nor_fingerprint_change() -> None:
    assert Predict().used_slots() == ("samples", "segmenter")
    assert "prior_weight" not in hashed_values(Predict()) and "prior_weight" in hashed_values(Predict(prior_weight=0.5))
