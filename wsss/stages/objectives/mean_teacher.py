"""mean_teacher: trains on the pixels of pseudo labels, and on what a moving average of the network predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from wsss.contract.cost import FitWork
from wsss.contract.fit import largest_micro_batch
from wsss.contract.settings import ActiveIf, active_with, settings
from wsss.contract.stage import Instance
from wsss.stages.objectives.cross_entropy import CrossEntropy, CrossEntropySettings

if TYPE_CHECKING:
    from wsss.stages.segmenter.images import SegmenterImages
    from wsss.tasks.task import Task

MEAN_TEACHER = "mean_teacher"
_CHOSEN = active_with("objective", MEAN_TEACHER)
_CONSISTENT = ActiveIf(
    f"objective = {MEAN_TEACHER!r} and consistency_weight above 0",
    lambda stage: stage.objective == MEAN_TEACHER and stage.consistency_weight > 0,
)
_CORRECTING = ActiveIf(
    f"objective = {MEAN_TEACHER!r} and correct_labels = true",
    lambda stage: stage.objective == MEAN_TEACHER and stage.correct_labels,
)
_FIRST_CORRECTED = 4
"""The first epoch whose labels may be corrected: a curve of three parameters needs three epochs."""
_WITHOUT_GRADIENT = 1 / 3
"""Operations of a forward pass, divided by those of a step of training, whose backward pass has twice as many."""


@settings
class MeanTeacherSettings(CrossEntropySettings):
    """The teacher, and how the segmenter learns from it."""

    teacher_decay: Annotated[float, Field(ge=0, lt=1), _CHOSEN] = 0.996
    """mean_teacher: decay per step of the moving average of the weights that is the teacher; 0.996 as in UniMatch V2.
    The trained network itself is saved; `ema_decay` saves an average of it, as with the other objectives."""
    consistency_weight: Annotated[float, Field(ge=0), _CHOSEN] = 1.0
    """mean_teacher: weight of the teacher's labels of the strong view, relative to the pseudo labels; 1 as in UniMatch.
    With 0 there is no strong view, and the teacher only corrects labels."""
    min_confidence: Annotated[float, Field(ge=0, lt=1), _CONSISTENT] = 0.95
    """mean_teacher: the teacher labels a pixel of the strong view if its probability is at least this; 0.95 as in
    UniMatch. Classes that are known to be absent from the image have probability 0."""
    strong_jitter: Annotated[float, Field(ge=0, le=1), _CONSISTENT] = 0.5
    """mean_teacher: strength of the random colours of the strong view, the same crop in other colours, grey or blurred;
    0.5 as in UniMatch. The weak view is the image as all objectives see it."""
    cutmix_probability: Annotated[float, Field(ge=0, le=1), _CONSISTENT] = 0.5
    """mean_teacher: how often a box of the strong view is replaced by the next image of the micro-batch (CutMix); 0.5
    as in UniMatch, 0 never."""
    correct_labels: Annotated[bool, _CHOSEN] = False
    """mean_teacher: replace pseudo labels of a class by the teacher's, where it is confident, after the epoch in which
    the network begins to learn their noise (ADELE)."""
    correction_slope: Annotated[float, Field(gt=0, lt=1), _CORRECTING] = 0.9
    """correct_labels: a class is corrected once the IoU of predictions and pseudo labels rises so much more slowly than
    in the first epoch: by this share of the first slope, of a curve fitted to the epochs; 0.9 as published."""
    correction_confidence: Annotated[float, Field(ge=0, lt=1), _CORRECTING] = 0.8
    """correct_labels: only pixels for which the teacher's probability is above this are corrected; 0.8 as published."""


class MeanTeacher(CrossEntropy):
    """An EMA teacher with weak-to-strong consistency, which may correct labels.

    A class for which an image was not checked counts as unknown, whatever `unchecked` says for the maps: the teacher
    may see it.

    Source: Yang et al., CVPR 2023 (UniMatch), on FixMatch; correction: Liu et al., CVPR 2022 (ADELE).
    `wsss.tasks.mean_teacher` and `wsss.tasks.early_learning` say what differs.
    """

    def __init__(self, training: MeanTeacherSettings) -> None:
        super().__init__(training)
        self.settings: MeanTeacherSettings = training

    def check(self, instance: Instance) -> None:
        super().check(instance)
        given, name = self.settings, instance.name
        if given.full_share:
            raise ValueError(
                f"{name}.full_share = {given.full_share}: objective = {MEAN_TEACHER!r} learns from pseudo labels "
                "alone; set full_share = 0, or objective = 'cross_entropy'"
            )
        if given.zero_stage == 3:
            raise ValueError(
                f"{name}.zero_stage = 3: the teacher's weights are not sharded; set zero_stage = 2 or less"
            )
        if given.norm == "batch" and given.world_size > 1:
            raise ValueError(
                f"{name}.norm = 'batch': with world_size = {given.world_size} every rank has statistics of its own, "
                f"and the teachers of objective = {MEAN_TEACHER!r} would differ; set norm = 'synchronised' or 'frozen'"
            )
        if not given.consistency_weight and not given.correct_labels:
            raise ValueError(
                f"{name}.consistency_weight = 0 and correct_labels = false: nothing is learned from the teacher; set "
                "one of them, or objective = 'cross_entropy'"
            )
        if given.correct_labels and given.confidence_power:
            raise ValueError(
                f"{name}.correct_labels = true with confidence_power = {given.confidence_power}: a corrected pixel "
                "would keep the weight of the label that it replaces; set one of them to its default, false or 0"
            )
        if given.correct_labels and given.num_epochs < _FIRST_CORRECTED:
            raise ValueError(
                f"{name}.correct_labels = true: num_epochs = {given.num_epochs}, but labels are corrected from epoch "
                f"{_FIRST_CORRECTED} on at the earliest; set num_epochs to at least that, or correct_labels = false"
            )
        self._check_partners(instance)

    def _check_partners(self, instance: Instance) -> None:
        given, name = self.settings, instance.name
        mixes = given.consistency_weight > 0 and given.cutmix_probability > 0
        if mixes and largest_micro_batch(given, world_size=given.world_size) == 1:
            raise ValueError(
                f"{name}.cutmix_probability = {given.cutmix_probability}: with micro-batches of one image no image has "
                "another to be mixed with; set cutmix_probability = 0, or a larger batch_size"
            )

    def with_all_passes(self, work: FitWork) -> FitWork:
        """One or two views of every crop through the network, and one through the teacher."""
        load, views = work.load, 2 if self.settings.consistency_weight else 1
        flops = load.flops * (views + _WITHOUT_GRADIENT)
        return replace(work, load=replace(load, flops=flops, passes=load.passes * (1 + _WITHOUT_GRADIENT)))

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.early_learning import EarlyLearning
        from wsss.tasks.mean_teacher import Consistency, MeanTeacherTask

        given, consistency, early_learning = self.settings, None, None
        if given.consistency_weight:
            consistency = Consistency(weight=given.consistency_weight, min_confidence=given.min_confidence)
        if given.correct_labels:
            early_learning = EarlyLearning(
                num_classes=len(instance.taxonomy) + 1,
                num_epochs=given.num_epochs,
                limit=given.correction_slope,
                min_confidence=given.correction_confidence,
            )
        return MeanTeacherTask(
            self.label_task(instance),
            teacher_decay=given.teacher_decay,
            consistency=consistency,
            early_learning=early_learning,
        )

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`strong`, normalised in the same way as `image`."""
        from wsss.data.images import normalised

        if "strong" not in batch:
            return batch
        return {**batch, "strong": normalised(batch["strong"], mean=self.settings.mean, std=self.settings.std)}

    def images(self) -> Callable[..., SegmenterImages]:
        from wsss.stages.segmenter.taught_images import TaughtImages, TwoViewImages

        given = self.settings
        if not given.consistency_weight:
            return TaughtImages
        return partial(TwoViewImages, jitter=given.strong_jitter, cutmix_probability=given.cutmix_probability)
