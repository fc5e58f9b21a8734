"""make_cams: images and a classifier -> class activation maps of the classes present.

Shape letters: `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from shards.records import CamRecord, Sample, grid_size
from wsss.device import worker_device
from wsss.images import resize_image, to_tensor
from wsss.ops.cam import class_activation_map, normalise_per_class
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

    method: Literal["cam", "stochastic"] = "cam"
    """`cam`: Zhou et al. 2016, as irn merges scales; `stochastic`: FickleNet's maps (mean and maximum are kept)."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1)] = 200
    """stochastic: maps per view."""

    def check(self, instance: Instance) -> None:
        classifier = instance.inputs["classifier"].stage
        assert isinstance(classifier, TrainClassifier)
        wanted = "stochastic" if self.method == "stochastic" else "linear"
        if classifier.head != wanted:
            raise ValueError(
                f"method = {self.method!r} needs a classifier with head = {wanted!r}; "
                f"{instance.inputs['classifier'].name} has {classifier.head!r}"
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

    @torch.inference_mode()
    def cams(self, sample: Sample) -> CamRecord:
        classes, grid = np.array(sample.classes, dtype=np.int16), grid_size(sample.size)
        if len(classes) == 0:
            empty = np.zeros((0, *grid), dtype=np.float16)
            peak = empty if self._stage.method == "stochastic" else None
            return CamRecord(key=sample.key, classes=classes, maps=empty, peak=peak, size=sample.size)
        x_3HW = to_tensor(sample.image, mean=self._trained.mean, std=self._trained.std).to(self._device)
        if self._stage.method == "stochastic":
            maps_Khw, peak_Khw = self._stochastic(x_3HW, sample, grid)
        else:
            maps_Khw, peak_Khw = self._deterministic(x_3HW, sample, grid), None
        return CamRecord(
            key=sample.key,
            classes=classes,
            maps=maps_Khw.half().cpu().numpy(),
            peak=None if peak_Khw is None else peak_Khw.half().cpu().numpy(),
            size=sample.size,
        )

    def _views(self, x_3HW: torch.Tensor) -> Iterator[torch.Tensor]:
        """Features of every scale, [F, D, h, w]: the image and, where asked for, its mirror image."""
        for size in view_sizes((x_3HW.shape[1], x_3HW.shape[2]), scales=self._stage.scales):
            view_13HW = resize_image(x_3HW[None], size=size)
            batch = torch.cat([view_13HW, view_13HW.flip(-1)]) if self._stage.flip else view_13HW
            yield self._network.features(batch)

    def _deterministic(self, x_3HW: torch.Tensor, sample: Sample, grid: tuple[int, int]) -> torch.Tensor:
        """irn's merge: maps of all views are resized to the grid and added, then divided by each class's maximum."""

        def maps() -> Iterator[tuple[torch.Tensor, bool]]:
            for features_FDhw in self._views(x_3HW):
                weights_CD = self._network.cam_weights
                maps_FKhw = class_activation_map(features_FDhw, weights_CD=weights_CD, classes=sample.classes)
                yield from ((maps_Khw, bool(mirrored)) for mirrored, maps_Khw in enumerate(maps_FKhw))

        return normalise_per_class(merge_views(maps(), size=grid))

    def _stochastic(
        self, x_3HW: torch.Tensor, sample: Sample, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean over all views and samples, and maximum, of the normalised stochastic maps."""
        seed = hashlib.sha256(f"{self._seed} {sample.key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
        mean_Khw = torch.zeros((len(sample.classes), *grid), device=x_3HW.device)
        peak_Khw, num_views = torch.zeros_like(mean_Khw), 0
        for features_FDhw in self._views(x_3HW):
            for mirrored, features_Dhw in enumerate(features_FDhw):
                pair = stochastic_cam(
                    features_Dhw,
                    weights_CDss=self._network.cam_weights,
                    classes=sample.classes,
                    num_samples=self._stage.num_samples,
                    drop_rate=self._trained.stochastic_drop_rate,
                    generator=generator,
                )
                mean, peak = (resize_bilinear((m.flip(-1) if mirrored else m)[None], size=grid)[0] for m in pair)
                mean_Khw, peak_Khw, num_views = mean_Khw + mean, torch.maximum(peak_Khw, peak), num_views + 1
        return mean_Khw / num_views, peak_Khw
