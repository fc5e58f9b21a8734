"""make_segmenter_scores: a trained segmenter and the image's labels -> class scores for the next pseudo labels.

Shape letters: `C` classes with background, `K` classes present, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field

from shards.records import Record, Sample, ScoreRecord, grid_size
from wsss.device import worker_device
from wsss.settings import settings
from wsss.stages.fit import load_trained
from wsss.stages.segmenter_views import SegmenterViews
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record

_EVEN = 1e-12


@settings
class MakeSegmenterScores(SegmenterViews, Map):
    """Scores of the classes present, from a segmenter that was trained on earlier pseudo labels.

    The segmenter has seen what many images agree on, the walk knows this image's boundaries and labels: their mean is
    better than either. Only the image's labels are used, as everywhere before prediction.
    """

    kind: ClassVar[str] = "make_segmenter_scores"
    record_kind: ClassVar[str] = "score"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "segmenter": ("train_segmenter",),
        "scores": ("make_scores", "make_segmenter_scores"),
    }

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the segmenter in the mean with the scores in slot `scores`; with 1 they are not read."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "scores" or self.weight < 1)

    def worker(self, instance: Instance) -> ShardWorker:
        trained = instance.inputs["segmenter"]
        network = load_trained(trained, device=worker_device())
        layers = {slot: instance.inputs[slot].layer for slot in self.used_slots() if slot != "segmenter"}

        def make(joined: Mapping[str, Record]) -> ScoreRecord:
            sample, earlier = cast(Sample, joined["samples"]), cast(ScoreRecord | None, joined.get("scores"))
            return self._record(sample, earlier, network, trained.stage)

        return work_per_record(layers, make)

    @torch.inference_mode()
    def _record(self, sample: Sample, earlier: ScoreRecord | None, network: Any, trained: Any) -> ScoreRecord:
        # An image without labels may have been given classes where its maps were made.
        classes = list(sample.classes) if earlier is None else earlier.classes.tolist()
        probability_Chw = self.probabilities(sample, network, trained, size=grid_size(sample.size))
        scores_Khw = present_scores(probability_Chw, classes=classes)
        if earlier is not None:
            earlier_Khw = torch.from_numpy(earlier.scores).to(scores_Khw)
            scores_Khw = self.weight * scores_Khw + (1 - self.weight) * earlier_Khw
        return ScoreRecord(
            key=sample.key,
            classes=torch.tensor(classes, dtype=torch.int16).numpy(),
            scores=scores_Khw.half().cpu().numpy(),
            size=sample.size,
        )


def present_scores(probability_Chw: torch.Tensor, *, classes: list[int]) -> torch.Tensor:
    """(1 - p_0) p_k / sum over present classes j of p_j, f32[K, h, w].

    What the segmenter gives to classes that are not in the image goes to those that are, in their proportion; it is
    foreground all the same.
    """
    if not classes:
        return probability_Chw.new_zeros((0, *probability_Chw.shape[1:]))
    present_Khw = probability_Chw[classes] + _EVEN
    scores_Khw: torch.Tensor = (1 - probability_Chw[0]) * present_Khw / present_Khw.sum(0)
    return scores_Khw
