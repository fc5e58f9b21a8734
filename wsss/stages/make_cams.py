"""make_cams: images and a classifier -> class activation maps of the classes present.

Shape letters: `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from shards.layer import split_of
from shards.records import CamRecord, Missing, Record, Sample
from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.settings import Scales, read_with, settings
from wsss.contract.shard_workers import work_per_group
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.ops.grad_cam import LAST_LAYER, METHODS
from wsss.stages.classifier.cam_maker import CamMaker, Maps
from wsss.stages.train_classifier import TrainClassifier

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

_TRAIN = "train"
_Rate = Annotated[float, Field(ge=0, lt=1)]


@settings
class MakeCams(Map):
    """Class activation maps over several scales and flips, on the stride-4 grid."""

    kind: ClassVar[str] = "make_cams"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = "cam"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "classifier": ("train_classifier",),
        "apart": ("train_classifier",),
    }

    method: Literal["cam", "grad_cam", "grad_cam_pp", "elementwise_grad_cam", "stochastic"] = "cam"
    """`cam`: Zhou et al. 2016, as irn merges scales; the three from gradients; `stochastic`: FickleNet's maps."""
    target_layer: str = LAST_LAYER
    """Layer that the maps from gradients are of: `last`, or a dotted name in timm's network, such as `blocks.5`."""
    normalisation: Literal["per_class", "global"] = "per_class"
    """Maps are divided by their own maximum (irn), or by the largest of all classes (NoPeopleAllowed)."""
    unlabelled_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Images without a label: classes that are not known to be absent, and are predicted with at least this
    probability, get a map; 0 gives them none."""
    scales: Scales = (1.0, 0.5, 1.5, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    num_samples: Annotated[int, Field(ge=1), read_with("method", "stochastic")] = 200
    """stochastic: maps per view."""
    drop_rate: Annotated[_Rate | None, read_with("method", "stochastic")] = None
    """stochastic: probability that a unit is dropped; the classifier's own where not given."""
    apart: bool = False
    """Classes that the classifier does not learn get their maps from the one in slot `apart`, which does."""
    max_side: Annotated[int, Field(ge=64)] = 2048
    """Longest side of a view in pixels; views that would be longer are made as long as this."""
    batch_images: Annotated[int, Field(ge=1)] = 1
    """Images of equal size that are looked at together: 1 on CPUs, 8 and more on a GPU."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "apart" or self.apart)

    def check(self, instance: Instance) -> None:
        for slot in self.used_slots():
            if slot != "samples":
                self._check_head(instance.name, instance.inputs[slot])
        if self.apart:
            self._check_apart(instance)
        if self.target_layer != LAST_LAYER and self.method not in METHODS:
            raise ValueError(
                f"{instance.name}.target_layer = {self.target_layer!r} is for {', '.join(METHODS)}; "
                f"method = {self.method!r} reads the last layer, leave target_layer out"
            )

        if self.normalisation == "global" and self.apart:
            raise ValueError(
                f"{instance.name}.normalisation = 'global' is not for apart = true: maps of two classifiers have no "
                "common scale; leave one of them out"
            )
        if self.normalisation == "global" and self.method == "stochastic":
            raise ValueError(
                f"{instance.name}.normalisation = 'global' is not for method = 'stochastic': each of its maps is "
                "divided by its own maximum before they are averaged; leave normalisation out"
            )

    def check_environment(self, instance: Instance) -> None:
        """Look whether the layer is there and gives a map, in a pass without numbers."""
        from wsss.models.layer_gradients import LayerGradients

        for slot in self.used_slots() if self.target_layer != LAST_LAYER else ():
            if slot == "samples":
                continue
            trained = instance.inputs[slot]
            assert isinstance(trained.stage, TrainClassifier)
            try:
                with torch.device("meta"):
                    network = cast("Classifier", trained.stage.model(trained, pretrained=False)).eval()
                    LayerGradients(network, layer=self.target_layer)(torch.zeros(1, 3, 256, 256), classes=[[1]])
            except ValueError as error:
                raise ValueError(f"target_layer = {self.target_layer!r}: {error}") from None

    def _check_head(self, name: str, trained: Instance) -> None:
        classifier = trained.stage
        assert isinstance(classifier, TrainClassifier)
        wanted = {"cam": "linear", "stochastic": "stochastic"}.get(self.method, classifier.head)
        if classifier.head != wanted:
            raise ValueError(
                f"{name}.method = {self.method!r} needs a classifier with head = {wanted!r}; "
                f"{trained.name}.head is {classifier.head!r}"
            )

    def _check_apart(self, instance: Instance) -> None:
        """Two classifiers must not both claim a class."""
        one, other = instance.inputs["classifier"], instance.inputs["apart"]
        assert isinstance(one.stage, TrainClassifier) and isinstance(other.stage, TrainClassifier)
        if both := set(one.stage.learned(one)) & set(other.stage.learned(other)):
            names = ", ".join(instance.taxonomy.name_of(c) for c in sorted(both)[:3])
            raise ValueError(
                f"{instance.name}.apart: {one.name} and {other.name} both learn {names}; name two classifiers in "
                f'inputs = {{ classifier = "...", apart = "..." }}, and give the first dropped_classes and the other '
                "only_classes"
            )

    def worker(self, instance: Instance) -> ShardWorker:
        makers = [self._maker(instance, slot) for slot in self.used_slots() if slot != "samples"]
        learned = frozenset().union(*(maker.learned for maker in makers))

        def make(together: Sequence[Mapping[str, Record]], images: Sequence[np.ndarray]) -> list[CamRecord]:
            samples = [cast(Sample, joined["samples"]) for joined in together]
            maps = zip(*(maker.cams(samples, images) for maker in makers), strict=True)
            return [_record(sample, parts) for sample, parts in zip(samples, maps, strict=True)]

        def leave_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
            return _of_dropped_classes(cast(Sample, joined["samples"]), shard, learned)

        layers = {"samples": instance.inputs["samples"].layer}
        return work_per_group(layers, make, batch_images=self.batch_images, leave_out=leave_out)

    def _maker(self, instance: Instance, slot: str) -> CamMaker:
        trained = instance.inputs[slot]
        stage = trained.stage
        assert isinstance(stage, TrainClassifier)
        network = load_trained(trained, device=worker_device())
        return CamMaker(self, network, stage, learned=stage.learned(trained), seed=instance.seed)


def _of_dropped_classes(sample: Sample, shard: str, learned: Collection[int]) -> Missing | None:
    """A training image of dropped classes alone would be learned as background; None for all others."""
    if split_of(shard) != _TRAIN or not sample.classes or set(learned) & set(sample.classes):
        return None
    return Missing(key=sample.key, reason="its labels are all of classes that no classifier learns", left_out=True)


def _record(sample: Sample, parts: Sequence[Maps]) -> CamRecord:
    """The maps of one image from one classifier or two, in the order of its labels."""
    classes = [c for part in parts for c in part.classes]
    labels = list(sample.classes) or sorted(classes)
    order = sorted(range(len(classes)), key=lambda place: labels.index(classes[place]))
    maps_Khw = torch.cat([part.maps for part in parts])[order]
    peaks = [part.peak for part in parts if part.peak is not None]
    probabilities_K = torch.cat([part.probabilities.cpu() for part in parts])[order]
    return CamRecord(
        key=sample.key,
        classes=np.array([classes[place] for place in order], dtype=np.int16),
        maps=maps_Khw.half().cpu().numpy(),
        peak=torch.cat(peaks)[order].half().cpu().numpy() if peaks else None,
        probabilities=probabilities_K.half().numpy(),
        size=sample.size,
    )
