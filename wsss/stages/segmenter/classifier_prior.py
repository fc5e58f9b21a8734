"""The probabilities of a classifier for a whole image, as weights of the classes that a segmenter predicts in it.

Shape letters: `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from shards.records import Sample
from wsss.data.images import resize_image, to_tensor
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.segmenter.prediction_settings import PredictionSettings
from wsss.stages.settings.views import classifier_views


class ClassifierPrior:
    """The logarithms of the weights of an image's classes: weight * log p_c; 0 for the background.

    p_c = sigmoid(mean_v l_v,c) over the views of the prediction (scales, mirror images, long_side, max_side), as
    make_cams stores it. The background has no probability of its own, so its weight is 1.
    """

    def __init__(self, given: PredictionSettings, network: Any, trained: ClassifierTraining, *, weight: float) -> None:
        """`network`: a `wsss.models.classifier.Classifier`; `trained`: the stage that trained it."""
        self._settings, self._network, self._trained, self._weight = given, network, trained, weight
        self._latest: tuple[Sample, torch.Tensor] | None = None

    def log_weights(self, sample: Sample) -> torch.Tensor:
        """f32[C]. The latest image's are kept: a prediction needs them several times.

        Raises `BadSampleError` if the image cannot be decoded.
        """
        if self._latest is None or self._latest[0] is not sample:
            self._latest = (sample, self._computed(sample))
        return self._latest[1]

    @torch.inference_mode()
    def _computed(self, sample: Sample) -> torch.Tensor:
        given, trained = self._settings, self._trained
        device = next(self._network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std, device=device)[None]
        sizes = classifier_views(sample.size, scales=given.scales, long_side=given.long_side, max_side=given.max_side)
        views = [resize_image(image_13HW, size=size) for size in sizes]
        if given.flip:
            views += [view.flip(-1) for view in views]
        mean_C = torch.stack([self._network(view)[0].float() for view in views]).mean(0)
        return functional.pad(self._weight * functional.logsigmoid(mean_C), (1, 0))
