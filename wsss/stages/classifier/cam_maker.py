"""A trained classifier that turns images of one size into their class activation maps.

Shape letters: `B` images, `F` views of one size (the image, its mirror image), `D` channels, `K` classes of an image,
`H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
import torch

from shards.label_type import class_ids
from shards.records import CamRecord, Sample, grid_size
from wsss.contract.batch_parts import VIEWS, BatchParts
from wsss.data.images import resize_image, to_tensor
from wsss.ops.cam import class_activation_map, normalise_globally, normalise_per_class
from wsss.ops.dropout_cam import dropout_cam
from wsss.ops.grad_cam import METHODS, Method, pooled_map
from wsss.ops.kept_draws import DrawKey
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.patch_maps import from_patches
from wsss.ops.stochastic_cam import OnGrid, stochastic_cam
from wsss.stages.classifier.cam_settings import PROTOTYPE_METHOD, CamSettings
from wsss.stages.classifier.finished_maps import finished
from wsss.stages.classifier.stage_looks import Look, prototype_look, region_look, self_similarity_look
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.views import classifier_views

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

_Part = TypeVar("_Part")


class Maps(NamedTuple):
    """The output of a classifier for one image."""

    classes: list[int]
    """Class ids, one per map."""
    maps: torch.Tensor
    """f32[K, h, w] in [0, 1]."""
    peak: torch.Tensor | None
    """f32[K, h, w]: the maximum of stochastic maps."""
    probabilities: torch.Tensor
    """f32[K]: sigmoid of the mean logit over all views."""


class CamMaker:
    """Makes maps of the classes that the classifier has learned. A sample's maps do not depend on the other images in
    its batch."""

    def __init__(
        self,
        stage: CamSettings,
        network: Classifier,
        trained: ClassifierTraining,
        *,
        learned: Collection[int],
        seed: int,
        directions: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        """`directions`: with method = "lpcam", those of `prototype_look`."""
        self._stage, self._network, self._trained = stage, network, trained
        self.learned, self._seed = frozenset(learned), seed
        self._device = network.cam_weights.device
        # Patches tile an extended view; other features are taken to span the view itself.
        self._patch = network.encoder.pyramid_strides[-1] if network.encoder.tiles_image else 0
        self._views_together = BatchParts(2, setting=VIEWS)
        self._look: Look = self._chosen_look(directions or {})

    def _chosen_look(self, directions: Mapping[int, torch.Tensor]) -> Look:
        if self._stage.method == "region_cam":
            return region_look(self._network, finest_stride=self._stage.finest_stride)
        if self._stage.method == "self_similarity":
            return self_similarity_look(self._network, finest_stride=self._stage.finest_stride)
        if self._stage.method == PROTOTYPE_METHOD:
            return prototype_look(self._network, directions=directions)
        return self._from_gradients() if self._stage.method in METHODS else self._from_weights

    @torch.no_grad()
    def cams(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Maps]:
        """The maps of samples of one size, in their order; `images` u8[H, W, 3]."""
        mean, std = self._trained.mean, self._trained.std
        x_B3HW = torch.stack([to_tensor(image, mean=mean, std=std, device=self._device) for image in images])
        classes = self._classes(samples, x_B3HW)
        if self._stage.method == "stochastic":
            return self._stochastic(x_B3HW, samples, classes)
        return self._deterministic(x_B3HW, classes, grid=grid_size(samples[0].size))

    def _classes(self, samples: Sequence[Sample], x_B3HW: torch.Tensor) -> list[list[int]]:
        """The classes of each image that get a map: its labels, and with unknown_classes = "predicted" the unknown
        classes that reach `unlabelled_threshold`."""
        classes = [[c for c in sample.classes if c in self.learned] for sample in samples]
        candidates = [self.learned.intersection(sample.unknown) for sample in samples]
        open_images = [index for index, unknown in enumerate(candidates) if unknown]
        if self._stage.unknown_classes == "predicted" and open_images:
            size = self._sizes((1.0,), x_B3HW)[0]
            seen_BC = torch.sigmoid(self._network(resize_image(x_B3HW[open_images], size=size)))
            for index, seen_C in zip(open_images, seen_BC, strict=True):
                rows = torch.nonzero(seen_C >= self._stage.unlabelled_threshold)[:, 0].tolist()
                classes[index] += [row + 1 for row in rows if row + 1 in candidates[index]]
        return classes

    def _sizes(self, scales: Sequence[float], x_B3HW: torch.Tensor) -> list[tuple[int, int]]:
        """Sizes of the views of images of this size."""
        size, stage = (x_B3HW.shape[-2], x_B3HW.shape[-1]), self._stage
        return classifier_views(size, scales=scales, long_side=stage.long_side, max_side=stage.max_side)

    def _views(self, x_B3HW: torch.Tensor) -> Iterator[torch.Tensor]:
        """One batch per scale, f32[F * B, 3, H, W]: the images, followed by their mirror images if `flip` is set."""
        for size in self._sizes(self._stage.scales, x_B3HW):
            view_B3HW = resize_image(x_B3HW, size=size)
            yield torch.cat([view_B3HW, view_B3HW.flip(-1)]) if self._stage.flip else view_B3HW

    def _deterministic(self, x_B3HW: torch.Tensor, classes: list[list[int]], *, grid: tuple[int, int]) -> list[Maps]:
        """irn's merge: maps of all views are resized to the grid and added, then divided by their maximum.

        Source: irn's and psa's public code. Differs: psa adds at the image's size, here on the stride-4 grid.
        """
        num_images = len(classes)
        totals = [torch.zeros((len(present), *grid), device=self._device) for present in classes]
        logits = _MeanLogits(num_images)
        if any(classes):
            for views in self._views(x_B3HW):
                of_view = [classes[index % num_images] for index in range(len(views))]
                maps_of_views, logits_VC = self._looked_at(views, of_view)
                logits.add(logits_VC)
                for index, maps_Khw in enumerate(maps_of_views):
                    if len(maps_Khw):
                        summed = maps_Khw.sqrt() if self._stage.square_root else maps_Khw
                        totals[index % num_images] += self._on_grid(summed, views, grid, mirrored=index >= num_images)
        normalise = normalise_per_class if self._stage.normalisation == "per_class" else normalise_globally
        return [
            Maps(present, normalise(maps) if present else maps, None, logits.probabilities(index, present))
            for index, (present, maps) in enumerate(zip(classes, totals, strict=True))
        ]

    def _on_grid(
        self, maps_hw: torch.Tensor, views_V3HW: torch.Tensor, grid: tuple[int, int], *, mirrored: bool
    ) -> torch.Tensor:
        """Maps of a view on the grid of the image; `mirrored`: of the mirror image."""
        if self._patch:
            view = (views_V3HW.shape[-2], views_V3HW.shape[-1])
            return from_patches(maps_hw, patch=self._patch, view=view, size=grid, mirrored=mirrored)
        return resize_bilinear(maps_hw.flip(-1) if mirrored else maps_hw, size=grid)

    def _looked_at(
        self, views_V3HW: torch.Tensor, classes: Sequence[Sequence[int]]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What `_look` says of all views."""
        parts = list(self._in_parts(views_V3HW, lambda part: self._look(views_V3HW[part], classes[part])))
        return [one for maps, _ in parts for one in maps], torch.cat([logits_VC for _, logits_VC in parts])

    def _in_parts(self, views_V3HW: torch.Tensor, make: Callable[[slice], _Part]) -> Iterator[_Part]:
        """`make` of all views; of a single image's one after the other if a GPU has no memory for two.

        Several images are not divided here: then fewer of them are processed together.
        """
        if len(views_V3HW) > self._views_together.most:
            yield make(slice(0, len(views_V3HW)))
            return
        numbers = range(len(views_V3HW))
        pixels = views_V3HW.shape[-2] * views_V3HW.shape[-1]
        yield from self._views_together.results(numbers, lambda part: make(slice(part.start, part.stop)), pixels=pixels)

    def _from_weights(
        self, views_B3HW: torch.Tensor, classes: Sequence[Sequence[int]]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        features = self._network.features(views_B3HW)
        weights_CD = self._network.cam_weights
        maps = [
            class_activation_map(features_Dhw, weights_CD=weights_CD, classes=present)
            for features_Dhw, present in zip(features, classes, strict=True)
        ]
        return maps, self._network.logits(features)

    def _from_gradients(self) -> Look:
        from wsss.models.layer_gradients import LayerGradients

        method = cast(Method, self._stage.method)
        gradients_of = LayerGradients(self._network, layer=self._stage.target_layer)

        def look(views_B3HW: torch.Tensor, classes: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
            activations, gradients, num_pixels, logits_VC = gradients_of(views_B3HW, classes=classes)
            # Views of all sizes have the same weight.
            rows = [
                pooled_map(method, activations, gradients_KBDhw=g[None], num_pixels=num_pixels)[:, 0].relu()
                for g in gradients
            ]
            maps_KBhw = torch.stack(rows) if rows else activations.new_zeros((0, *activations[:, 0].shape))
            return [maps_KBhw[: len(present), index] for index, present in enumerate(classes)], logits_VC

        return look

    def _stochastic(self, x_B3HW: torch.Tensor, samples: Sequence[Sample], classes: list[list[int]]) -> list[Maps]:
        """Mean and maximum, over all draws of all views, of the normalised stochastic maps."""
        grid, num_images = grid_size(samples[0].size), len(samples)
        draws, done = iter(self._stage.samples_of_views()), 0
        # One key per sample, so that its draws do not depend on actors, order or retries.
        keys = [DrawKey.of(f"{self._seed} {sample.key}") for sample in samples]
        means = [torch.zeros((len(present), *grid), device=self._device) for present in classes]
        peaks, logits = [torch.zeros_like(mean) for mean in means], _MeanLogits(num_images)
        for views in self._views(x_B3HW) if any(classes) else ():
            of_parts = list(self._in_parts(views, partial(self._features_of, views)))
            features_VDhw = torch.cat(of_parts)
            logits.add(self._network.logits(features_VDhw))
            num_samples = [next(draws) for _ in range(len(features_VDhw) // num_images)]
            first = [done + sum(num_samples[:view]) for view in range(len(num_samples))]
            done += sum(num_samples)
            for index, features_Dhw in enumerate(features_VDhw):
                number, mirrored = index % num_images, index >= num_images
                if not classes[number]:
                    continue

                on_grid = partial(self._on_grid, views_V3HW=views, grid=grid, mirrored=mirrored)
                drawn = range(first[mirrored], first[mirrored] + num_samples[mirrored])
                mean, peak = self._draw_maps(features_Dhw, classes[number], keys[number], drawn, on_grid)
                means[number] += mean * self._weight(len(drawn))
                peaks[number] = torch.maximum(peaks[number], peak)
        total = sum(map(self._weight, self._stage.samples_of_views()))
        return [
            Maps(c, mean / total, peak, logits.probabilities(index, c))
            for index, (c, mean, peak) in enumerate(zip(classes, means, peaks, strict=True))
        ]

    def _features_of(self, views_V3HW: torch.Tensor, part: slice) -> torch.Tensor:
        return self._network.features(views_V3HW[part])

    def _weight(self, num_samples: int) -> int:
        """Weight of a view's mean: all draws have the same weight, and so do views with the same number of draws."""
        return num_samples if self._stage.samples_per == "image" else 1

    def _draw_maps(
        self,
        features_Dhw: torch.Tensor,
        classes: Sequence[int],
        key: DrawKey,
        drawn: range,
        on_grid: OnGrid,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and maximum of one view's maps; `drawn`: their numbers among all maps of the image."""
        rate = self._stage.drop_rate
        draw = stochastic_cam if self._trained.stochastic_units == "windows" else dropout_cam
        return draw(
            features_Dhw,
            weights_CDss=self._network.cam_weights,
            classes=classes,
            num_samples=len(drawn),
            drop_rate=self._trained.stochastic_drop_rate if rate is None else rate,
            key=key,
            first=drawn.start,
            on_grid=on_grid,
        )


class _MeanLogits:
    """Sums the logits of all views of each image, and returns probabilities of their mean."""

    def __init__(self, num_images: int) -> None:
        self._num_images, self._total, self.num_views = num_images, torch.zeros(()), 0

    def add(self, logits_VC: torch.Tensor) -> None:
        """Add the logits of one scale: of the images, followed by those of their mirror images if there are any."""
        views_FBC = logits_VC.reshape(-1, self._num_images, logits_VC.shape[1])
        self._total = self._total.to(views_FBC) + views_FBC.sum(0)
        self.num_views += len(views_FBC)

    def probabilities(self, index: int, classes: Sequence[int]) -> torch.Tensor:
        """f32[K] of one image's classes."""
        if not classes:
            return torch.zeros(0)
        return torch.sigmoid(self._total[index, [c - 1 for c in classes]] / self.num_views)


def cam_record(
    sample: Sample, parts: Sequence[Maps], *, settings: CamSettings, unknown: tuple[int, ...] = ()
) -> CamRecord:
    """The record of one image from the maps of one or two classifiers: labels in their order, then predicted classes.

    `unknown`: classes without a map that the image may show.
    """
    classes = [c for part in parts for c in part.classes]
    labels = [*sample.classes, *sorted(set(classes).difference(sample.classes))]
    order = sorted(range(len(classes)), key=lambda index: labels.index(classes[index]))
    maps_Khw = finished(torch.cat([part.maps for part in parts])[order], settings=settings)
    peaks = [part.peak for part in parts if part.peak is not None]
    probabilities_K = torch.cat([part.probabilities.cpu() for part in parts])[order]
    return CamRecord(
        key=sample.key,
        classes=class_ids([classes[index] for index in order]),
        maps=maps_Khw.half().cpu().numpy(),
        peak=torch.cat(peaks)[order].half().cpu().numpy() if peaks else None,
        probabilities=probabilities_K.half().numpy(),
        unknown=unknown,
        size=sample.size,
    )
