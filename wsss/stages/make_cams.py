"""make_cams: images and a classifier -> class activation maps of the classes present.

Shape letters: `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from shards.records import CamRecord, Sample, grid_size
from wsss.device import worker_device
from wsss.images import resize_image, to_tensor
from wsss.ops.cam import class_activation_map, normalise_globally, normalise_per_class
from wsss.ops.grad_cam import LAST_LAYER, METHODS
from wsss.ops.multi_scale import merge_views, resize_bilinear, view_sizes
from wsss.ops.stochastic_cam import stochastic_cam
from wsss.settings import Scales, settings
from wsss.stages.fit import load_trained
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record
from wsss.stages.train_classifier import TrainClassifier

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier


@settings
class MakeCams(Map):
    """Class activation maps over several scales and flips, on the stride-4 grid."""

    kind: ClassVar[str] = "make_cams"
    record_kind: ClassVar[str] = "cam"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("build_shards",), "classifier": ("train_classifier",)}

    method: Literal["cam", "grad_cam", "grad_cam_pp", "elementwise_grad_cam", "stochastic"] = "cam"
    """`cam`: Zhou et al. 2016, as irn merges scales; the three from gradients; `stochastic`: FickleNet's maps."""
    target_layer: str = LAST_LAYER
    """Layer that the maps from gradients are of: `last`, or a dotted name in timm's network, such as `blocks.5`."""
    normalisation: Literal["per_class", "global"] = "per_class"
    """Maps are divided by their own maximum (irn), or by the largest of all classes (NoPeopleAllowed)."""
    unlabelled_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Images without a label: classes of at least this predicted probability get a map; 0 gives them none."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1)] = 200
    """stochastic: maps per view."""

    def check(self, instance: Instance) -> None:
        classifier = instance.inputs["classifier"].stage
        assert isinstance(classifier, TrainClassifier)
        wanted = {"cam": "linear", "stochastic": "stochastic"}.get(self.method, classifier.head)
        if classifier.head != wanted:
            raise ValueError(
                f"method = {self.method!r} needs a classifier with head = {wanted!r}; "
                f"{instance.inputs['classifier'].name} has {classifier.head!r}"
            )
        if self.target_layer != LAST_LAYER and self.method not in METHODS:
            raise ValueError(
                f"{instance.name}.target_layer = {self.target_layer!r} is for {', '.join(METHODS)}; "
                f"method = {self.method!r} reads the last layer, leave target_layer out"
            )

        if self.normalisation == "global" and self.method == "stochastic":
            raise ValueError(
                f"{instance.name}.normalisation = 'global' is not for method = 'stochastic': each of its maps is "
                "divided by its own maximum before they are averaged; leave normalisation out"
            )

    def worker(self, instance: Instance) -> ShardWorker:
        trained = instance.inputs["classifier"]
        maker = _CamMaker(self, load_trained(trained, device=worker_device()), trained.stage, seed=instance.seed)
        samples = instance.inputs["samples"].layer

        return work_per_record({"samples": samples}, lambda joined: maker.cams(cast(Sample, joined["samples"])))


class _CamMaker:
    """A loaded classifier that turns one sample into its maps."""

    def __init__(self, stage: MakeCams, network: Classifier, trained: Any, *, seed: int) -> None:
        self._stage, self._network, self._trained, self._seed = stage, network, trained, seed
        self._device = next(network.parameters()).device
        self._view_maps = self._map_function()

    @torch.no_grad()
    def cams(self, sample: Sample) -> CamRecord:
        x_3HW = to_tensor(sample.image, mean=self._trained.mean, std=self._trained.std).to(self._device)
        classes, grid = self._classes(sample, x_3HW), grid_size(sample.size)
        if self._stage.method == "stochastic":
            maps_Khw, peak_Khw = self._stochastic(x_3HW, sample, classes, grid)
        else:
            maps_Khw, peak_Khw = self._deterministic(x_3HW, classes, grid), None
        return CamRecord(
            key=sample.key,
            classes=np.array(classes, dtype=np.int16),
            maps=maps_Khw.half().cpu().numpy(),
            peak=None if peak_Khw is None else peak_Khw.half().cpu().numpy(),
            size=sample.size,
        )

    def _classes(self, sample: Sample, x_3HW: torch.Tensor) -> list[int]:
        """The labels; for an image without any, what the classifier sees there where that is asked for."""
        threshold = self._stage.unlabelled_threshold
        if sample.classes or threshold == 0:
            return list(sample.classes)
        probability_C = torch.sigmoid(self._network(x_3HW[None])[0])
        return [int(row) + 1 for row in torch.nonzero(probability_C >= threshold)[:, 0]]

    def _map_function(self) -> Callable[[torch.Tensor, Sequence[int]], torch.Tensor]:
        """(views f32[F, 3, H, W], classes) -> maps f32[F, K, h, w], at least 0."""
        if self._stage.method in METHODS:
            from wsss.models.layer_gradients import LayerGradients

            combine = METHODS[self._stage.method]
            look = LayerGradients(self._network, layer=self._stage.target_layer)

            def from_gradients(views_F3HW: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
                activations, gradients, num_pixels = look(views_F3HW, classes=classes)
                # A mean over few pixels has large gradients: times their number, views of all sizes weigh alike.
                return combine(activations, gradients_KBDhw=gradients).relu() * num_pixels

            return from_gradients

        def from_weights(views_F3HW: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
            features = self._network.features(views_F3HW)
            return class_activation_map(features, weights_CD=self._network.cam_weights, classes=classes)

        return from_weights

    def _views(self, x_3HW: torch.Tensor) -> Iterator[torch.Tensor]:
        """Every scale, f32[F, 3, H, W]: the image and, where asked for, its mirror image."""
        for size in view_sizes((x_3HW.shape[1], x_3HW.shape[2]), scales=self._stage.scales):
            view_13HW = resize_image(x_3HW[None], size=size)
            yield torch.cat([view_13HW, view_13HW.flip(-1)]) if self._stage.flip else view_13HW

    def _deterministic(self, x_3HW: torch.Tensor, classes: Sequence[int], grid: tuple[int, int]) -> torch.Tensor:
        """irn's merge: maps of all views are resized to the grid and added, then divided by their maximum."""
        if not classes:
            return torch.zeros((0, *grid))

        def maps() -> Iterator[tuple[torch.Tensor, bool]]:
            for views_F3HW in self._views(x_3HW):
                maps_FKhw = self._view_maps(views_F3HW, classes)
                yield from ((maps_Khw, bool(mirrored)) for mirrored, maps_Khw in enumerate(maps_FKhw))

        normalise = normalise_per_class if self._stage.normalisation == "per_class" else normalise_globally
        return normalise(merge_views(maps(), size=grid))

    def _stochastic(
        self, x_3HW: torch.Tensor, sample: Sample, classes: Sequence[int], grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over all views and samples, and maximum, of the normalised stochastic maps."""
        if not classes:
            return torch.zeros((0, *grid)), torch.zeros((0, *grid))
        seed = hashlib.sha256(f"{self._seed} {sample.key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
        mean_Khw = torch.zeros((len(classes), *grid), device=x_3HW.device)
        peak_Khw, num_views = torch.zeros_like(mean_Khw), 0
        for views_F3HW in self._views(x_3HW):
            for mirrored, features_Dhw in enumerate(self._network.features(views_F3HW)):
                pair = stochastic_cam(
                    features_Dhw,
                    weights_CDss=self._network.cam_weights,
                    classes=classes,
                    num_samples=self._stage.num_samples,
                    drop_rate=self._trained.stochastic_drop_rate,
                    generator=generator,
                )
                mean, peak = (resize_bilinear((m.flip(-1) if mirrored else m)[None], size=grid)[0] for m in pair)
                mean_Khw, peak_Khw, num_views = mean_Khw + mean, torch.maximum(peak_Khw, peak), num_views + 1
        return mean_Khw / num_views, peak_Khw
