"""Images with their image-level labels: the training set, and the validation pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import torch

from shards.records import BadSampleError, Sample
from wsss.contract.fit import Draw
from wsss.data.augment import Augmentation, fill_colour
from wsss.data.augmented_records import AugmentedRecords
from wsss.data.images import long_side_size, pixels, resize_image, to_tensor
from wsss.data.joined_records import JoinedRecords
from wsss.stages.classifier.training import ClassifierTraining


class LabelledImages(AugmentedRecords):
    """Augmented images with multi-hot labels; classes that are not learned are marked unknown in every image."""

    def __init__(
        self,
        stage: ClassifierTraining,
        records: JoinedRecords,
        *,
        learned: Collection[int],
        num_classes: int,
        seed: int,
    ) -> None:
        augmentation = Augmentation(
            crop_size=stage.crop_size,
            resize_long=stage.resize_long,
            colour_jitter=stage.colour_jitter,
            fill=fill_colour(stage.mean),
            strong=stage.augmentation == "strong",
        )
        super().__init__(records, augmentation, seed=seed)
        self._stage, self._num_classes = stage, num_classes
        self._not_learned = [c for c in range(1, num_classes + 1) if c not in learned]

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self._stage.as_read(self.records.sample(draw.index), self.records.split)
        image, _ = self.augmented(draw, sample, mask_HW=None)
        target, known = torch.zeros(self._num_classes), torch.ones(self._num_classes)
        target[[c - 1 for c in sample.classes]] = 1.0
        known[[c - 1 for c in (*sample.unknown, *self._not_learned)]] = 0.0
        return {"key": sample.key, "image": pixels(image), "target": target, "known": known}


@torch.no_grad()
def predicted_labels(
    logits: Callable[[torch.Tensor], torch.Tensor],
    stage: ClassifierTraining,
    samples: Iterable[Sample],
    *,
    num_classes: int,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities f64[N, C], labels bool[N, C] and whether each label is known, bool[N, C].

    For every readable image of `samples`.

    `logits`: f32[1, 3, H, W] -> f[1, C].
    """
    classes = np.arange(1, num_classes + 1)
    scores, truth, known = [], [], []
    for sample in samples:
        try:
            image = sample.image
        except BadSampleError:
            continue
        x_13HW = to_tensor(image, mean=stage.mean, std=stage.std, device=device)[None]
        x_13HW = resize_image(x_13HW, size=long_side_size(sample.size, long_side=stage.validation_size))
        scores.append(torch.sigmoid(logits(x_13HW)[0].float()).cpu().double().numpy())
        truth.append(np.isin(classes, sample.classes))
        known.append(~np.isin(classes, sample.unknown))
    found = (np.array(scores), np.array(truth, dtype=bool), np.array(known, dtype=bool))
    scores_NC, truth_NC, known_NC = (of_kind.reshape(-1, num_classes) for of_kind in found)
    return scores_NC, truth_NC, known_NC
