"""A trained segmenter that segments images of any size.

Every view goes through the network once. The network's output stays on its own grid; it is resized to the image's size
in bands of rows, one after the other, so that 201 classes of an image of any size need little memory. The label maps of
subsets of the views are made from the same outputs.

Shape letters: `C` classes with background, `K` classes that the CRF sees, `H W` pixels, `R` rows of a band.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from shards.label_type import BACKGROUND, label_type
from shards.records import Prediction, Sample, grid_size
from wsss.data.images import long_side_size
from wsss.ops.dense_crf import unary_from_probabilities
from wsss.ops.multi_scale import resize_bilinear, view_sizes
from wsss.ops.seeds import label_dtype
from wsss.ops.tta import ViewLogits, merged_bands, softmax_of_classes, with_class_weights, without_classes
from wsss.stages.segmenter.classifier_prior import ClassifierPrior
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.prediction_settings import PredictionSettings

_View = tuple[tuple[int, int], bool]
"""Size of a view, and whether it is mirrored."""


class _Labels(NamedTuple):
    mask: torch.Tensor
    """u8[H, W], or i32[H, W] for more than 254 classes."""
    confidence: torch.Tensor
    """f32[H, W]: the probability of the chosen class."""


class Predictor:
    """A network with prediction settings. The prediction for an image does not depend on other images."""

    def __init__(
        self,
        given: PredictionSettings,
        network: Any,
        trained: ImageSegmenterTraining,
        *,
        prior: ClassifierPrior | None = None,
    ) -> None:
        """`trained`: the stage that trained the network. `prior`: weights of the classes, if there are any."""
        self._settings, self._network, self._trained, self._prior = given, network, trained, prior

    @torch.inference_mode()
    def prediction(self, sample: Sample) -> Prediction:
        """Segment one image. Raises `BadSampleError` if it cannot be decoded."""
        image_13HW = self._settings.image(sample, self._network, self._trained)
        sets = self._view_sets((image_13HW.shape[-2], image_13HW.shape[-1]))
        wanted = list(dict.fromkeys(view for views in sets.values() for view in views))
        logits = [_view_logits(image_13HW, self._network, size=size, mirrored=mirrored) for size, mirrored in wanted]
        indices = {name: tuple(wanted.index(view) for view in views) for name, views in sets.items()}
        subsets = list(dict.fromkeys(indices.values()))
        labels = dict(zip(subsets, self._labels(sample, logits, subsets), strict=True))
        mask_HW, confidence_HW = labels[indices.pop("")]
        confidence_hw = resize_bilinear(confidence_HW[None, None], size=grid_size(sample.size))[0, 0]
        return Prediction(
            key=sample.key,
            mask=_label_map(mask_HW, num_classes=len(logits[0].logits)),
            confidence=(255 * confidence_hw).round().to(torch.uint8).cpu().numpy(),
            ablation={
                name: _label_map(labels[subset].mask, num_classes=len(logits[0].logits))
                for name, subset in indices.items()
            },
        )

    @torch.inference_mode()
    def probabilities(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """The mask [H, W] that `prediction` gives (u8; i32 for more than 254 classes), and f32[C, H, W], the
        probabilities of all classes.

        After the CRF, classes that it did not get have probability 0. Raises `BadSampleError` if the image cannot be
        decoded.
        """
        image_13HW = self._settings.image(sample, self._network, self._trained)
        views = [
            _view_logits(image_13HW, self._network, size=size, mirrored=mirrored)
            for size, mirrored in self._view_sets((image_13HW.shape[-2], image_13HW.shape[-1]))[""]
        ]
        subset = tuple(range(len(views)))
        dtype = _dtype(len(views[0].logits))
        mask_HW = torch.zeros(sample.size, dtype=dtype, device=image_13HW.device)
        probability_CHW = torch.zeros(len(views[0].logits), *sample.size, device=image_13HW.device)
        for rows, (merged_CRW,) in self._bands(sample, views, [subset]):
            mask_HW[rows] = merged_CRW.max(0).indices.to(dtype)
            probability_CHW[:, rows] = self._probability(merged_CRW)
        if self._settings.refine == "none":
            return mask_HW, probability_CHW
        possible_C = probability_CHW.amax((1, 2)) >= self._settings.crf_class_threshold
        possible_C[mask_HW.unique().long()] = True
        ids_K = possible_C.nonzero()[:, 0]
        refined_KHW = self._after_crf(sample, probability_CHW[ids_K])
        probability_CHW.zero_()[ids_K] = refined_KHW
        return ids_K.to(dtype)[refined_KHW.max(0).indices], probability_CHW

    def _view_sets(self, size: tuple[int, int]) -> dict[str, list[_View]]:
        """The views of the prediction (under "") and of every subset in `ablation`."""
        chosen: dict[str, tuple[tuple[float, ...], bool]] = {"": (self._settings.scales, self._settings.flip)}
        every = {"none": ((1.0,), False), "flip": ((1.0,), True), "scales": (self._settings.scales, False)}
        chosen |= {name: every.get(name, (self._settings.scales, True)) for name in self._settings.ablation}
        sets: dict[str, list[_View]] = {}
        for name, (scales, flip) in chosen.items():
            sizes = [self._fitting(view) for view in view_sizes(size, scales=scales)]
            sets[name] = [(view, mirrored) for view in sizes for mirrored in ((False, True) if flip else (False,))]
        return sets

    def _fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        return size if max(size) <= self._settings.max_side else long_side_size(size, long_side=self._settings.max_side)

    def _labels(self, sample: Sample, views: list[ViewLogits], subsets: list[tuple[int, ...]]) -> list[_Labels]:
        """The labels of every subset of the views."""
        device, size, dtype = views[0].logits.device, sample.size, _dtype(len(views[0].logits))
        labels = [
            _Labels(torch.zeros(size, dtype=dtype, device=device), torch.zeros(size, device=device)) for _ in subsets
        ]
        highest_SC = torch.zeros(len(subsets), len(views[0].logits), device=device)
        for rows, merged in self._bands(sample, views, subsets):
            for (mask_HW, confidence_HW), highest_C, merged_CRW in zip(labels, highest_SC, merged, strict=True):
                # Compare logits if the views are merged as logits: two may round to the same probability.
                mask_HW[rows] = merged_CRW.max(0).indices.to(dtype)
                probability_CRW = self._probability(merged_CRW)
                confidence_HW[rows] = probability_CRW.amax(0)
                if self._settings.refine == "crf":
                    torch.maximum(highest_C, probability_CRW.amax((1, 2)), out=highest_C)
        if self._settings.refine == "none":
            return labels
        refined = []
        for (mask_HW, _), highest_C, subset in zip(labels, highest_SC, subsets, strict=True):
            possible_C = highest_C >= self._settings.crf_class_threshold
            possible_C[mask_HW.unique().long()] = True
            refined.append(self._refined(sample, views, subset, possible_C.nonzero()[:, 0]))
        return refined

    def _bands(
        self, sample: Sample, views: list[ViewLogits], subsets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[slice, list[torch.Tensor]]]:
        """The merged views of every subset, band by band, with the classes excluded that may not be predicted, and
        weighted by the prior."""
        merge, absent_C, log_weights_C = self._settings.merge, None, None
        if self._settings.labels != "none":
            absent_C = torch.ones(len(views[0].logits), dtype=torch.bool, device=views[0].logits.device)
            absent_C[[BACKGROUND, *sample.classes, *sample.unknown]] = False
        if self._prior is not None:
            log_weights_C = self._prior.log_weights(sample)
        for rows, merged in merged_bands(views, subsets=subsets, merge=merge, size=sample.size):
            if log_weights_C is not None:
                merged = [with_class_weights(one, log_weights_C=log_weights_C, merge=merge) for one in merged]
            if absent_C is not None:
                merged = [without_classes(one, absent_C=absent_C, merge=merge) for one in merged]
            yield rows, merged

    def _probability(self, merged_CRW: torch.Tensor) -> torch.Tensor:
        return softmax_of_classes(merged_CRW) if self._settings.merge == "mean_logits" else merged_CRW

    def _refined(
        self, sample: Sample, views: list[ViewLogits], subset: tuple[int, ...], ids_K: torch.Tensor
    ) -> _Labels:
        """The labels after the CRF.

        It gets only K classes, with their probabilities divided by their sum: few of the 201 classes have a relevant
        probability in any pixel, and its cost grows with K.
        """
        share_KHW = torch.zeros(len(ids_K), *sample.size, device=ids_K.device)
        for rows, (merged_CRW,) in self._bands(sample, views, [subset]):
            share_KHW[:, rows] = self._probability(merged_CRW)[ids_K]
        confidence_HW, index_HW = self._after_crf(sample, share_KHW).max(0)
        return _Labels(ids_K.to(_dtype(len(views[0].logits)))[index_HW], confidence_HW)

    def _after_crf(self, sample: Sample, share_KHW: torch.Tensor) -> torch.Tensor:
        share_KHW /= share_KHW.sum(0).clamp_min(torch.finfo(share_KHW.dtype).tiny)
        return self._settings.refine_energy(unary_from_probabilities(share_KHW), sample.image)


def _dtype(num_classes: int) -> torch.dtype:
    """The type of label maps on the device; `num_classes` counts the background."""
    return label_dtype(label_type(num_classes - 1).ignore)


def _label_map(mask_HW: torch.Tensor, *, num_classes: int) -> np.ndarray:
    """A label map as records hold it; `num_classes` counts the background."""
    return mask_HW.cpu().numpy().astype(label_type(num_classes - 1).dtype, copy=False)


def _view_logits(image_13HW: torch.Tensor, network: Any, *, size: tuple[int, int], mirrored: bool) -> ViewLogits:
    """One view through the network."""
    view_13HW = resize_bilinear(image_13HW, size=size)
    logits_1Chw, extended = network.strided_logits(view_13HW.flip(-1) if mirrored else view_13HW)
    return ViewLogits(
        logits=logits_1Chw[0].contiguous(),
        extended=extended,
        size=size,
        mirrored=mirrored,
        corner_to_corner=network.corner_to_corner,
    )
