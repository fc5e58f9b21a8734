"""make_cams: images and a classifier -> class activation maps of the classes present.

Shape letters: `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from pydantic import Field

from shards.layer import split_of
from shards.reader import Joined, join_shard
from shards.records import BadSampleError, CamRecord, Missing, Sample
from wsss.device import worker_device
from wsss.ops.grad_cam import LAST_LAYER, METHODS
from wsss.settings import Scales, read_with, settings
from wsss.stages.cam_maker import CamMaker, Maps
from wsss.stages.fit import load_trained
from wsss.stages.stage import Instance, Map, ShardWorker
from wsss.stages.train_classifier import TrainClassifier

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

_TRAIN = "train"
_WINDOW = 8
"""Images of equal size are looked for among this many times as many as are looked at together."""


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
        samples = instance.inputs["samples"].layer

        def work(shard: str) -> Iterator[CamRecord | Missing]:
            joined = join_shard({"samples": samples}, shard, how="inner")
            for window in batched(joined, self.batch_images if self.batch_images == 1 else _WINDOW * self.batch_images):
                yield from self._records(makers, window, split_of(shard))

        return work

    def _maker(self, instance: Instance, slot: str) -> CamMaker:
        trained = instance.inputs[slot]
        stage = trained.stage
        assert isinstance(stage, TrainClassifier)
        network = load_trained(trained, device=worker_device())
        return CamMaker(self, network, stage, learned=stage.learned(trained), seed=instance.seed)

    def _reason_to_leave_out(self, sample: Sample, makers: Sequence[CamMaker], split: str) -> str:
        """A training image of dropped classes alone would be learned as background; empty for all others."""
        learned = frozenset().union(*(maker.learned for maker in makers))
        if split != _TRAIN or not sample.classes or learned & set(sample.classes):
            return ""
        return "its labels are all of classes that no classifier learns"

    def _records(
        self, makers: Sequence[CamMaker], window: Sequence[Joined | Missing], split: str
    ) -> Iterator[CamRecord | Missing]:
        """The records of some samples in their order; images of equal size are looked at together."""
        made: dict[int, CamRecord | Missing] = {}
        by_size: dict[tuple[int, int], list[tuple[int, Sample, np.ndarray]]] = {}
        for place, joined in enumerate(window):
            if isinstance(joined, Missing):
                made[place] = joined
                continue
            sample = cast(Sample, joined["samples"])
            if reason := self._reason_to_leave_out(sample, makers, split):
                made[place] = Missing(key=sample.key, reason=reason, left_out=True)
                continue
            try:
                by_size.setdefault(sample.size, []).append((place, sample, sample.image))
            except BadSampleError as error:
                made[place] = Missing(key=sample.key, reason=str(error))
        for of_size in by_size.values():
            for group in batched(of_size, self.batch_images):
                places, samples, images = zip(*group, strict=True)
                maps = zip(*(maker.cams(samples, images) for maker in makers), strict=True)
                for place, sample, parts in zip(places, samples, maps, strict=True):
                    made[place] = _record(sample, parts)
        yield from (made[place] for place in range(len(window)))


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


_T = TypeVar("_T")


def batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one maybe shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
