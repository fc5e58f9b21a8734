"""dsrg: trains on seeds that grow at every step and on the output of a dense CRF; with masks, it is FickleNet's
semi-supervised loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from shards.label_type import label_type
from shards.records import SeedRecord
from wsss.contract.cost import Units
from wsss.contract.fit import TrainingSet
from wsss.contract.settings import active_with, resolved, settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance
from wsss.stages.objectives.objective import Objective
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.tasks.dsrg_grid import GRID, grid_side, is_corner_to_corner

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter
    from wsss.stages.segmenter.images import SeededImages, SegmenterImages
    from wsss.tasks.dsrg import CrfInTheLoop
    from wsss.tasks.segmentation import SegmenterTask
    from wsss.tasks.task import Task

_DSRG = active_with("objective", "dsrg")
_CRF = active_with("objective", "dsrg", "sec")
_Deviation = Annotated[float, Field(ge=0.1, le=10_000)]
_Weight = Annotated[float, Field(ge=0, le=10_000)]


@settings
class DsrgSettings(ImageSegmenterTraining):
    """How seeds grow, and the dense CRF in the training loop. The defaults are those of the public code."""

    growing_foreground_threshold: Annotated[float, Field(gt=0, lt=1), _DSRG] = 0.85
    """dsrg: the seeds of a class grow to neighbouring pixels with a probability above this."""
    growing_background_threshold: Annotated[float, Field(gt=0, lt=1), _DSRG] = 0.99
    """dsrg: the seeds of the background grow to neighbouring pixels with a probability above this."""
    loop_crf_iterations: Annotated[int, Field(ge=0, le=1000), _CRF] = 10
    """dsrg, sec: number of mean-field iterations of the CRF."""
    loop_crf_gaussian: Annotated[tuple[_Deviation, _Weight], _CRF] = (3.0, 3.0)
    """dsrg, sec: smoothness kernel of the CRF: standard deviation in pixels of the crop, weight."""
    loop_crf_bilateral: Annotated[tuple[_Deviation, _Deviation, _Weight], _CRF] = (80.0, 13.0, 10.0)
    """dsrg, sec: appearance kernel of the CRF: standard deviation in pixels of the crop, standard deviation in grey
    levels, weight."""
    loop_crf_scale: Annotated[float, Field(gt=0), _CRF] = 12.0
    """dsrg, sec: the CRF runs on the stride-8 grid, with the standard deviations in pixels divided by this (published
    value: 12)."""


class Dsrg(Objective):
    """Deep seeded region growing.

    Source: Huang et al., CVPR 2018; semi-supervised: Lee et al., CVPR 2019 (FickleNet).
    """

    name: ClassVar[str] = "dsrg"
    slots: ClassVar[dict[str, Slot]] = {"seeds": Records((SeedRecord,))}

    def __init__(self, training: DsrgSettings) -> None:
        super().__init__(training)
        self.settings = training

    def check(self, instance: Instance) -> None:
        training = self.training
        if training.supervision() == "full":
            raise ValueError(
                f"{instance.name}.full_share = 1: objective = {self.name!r} needs training images without masks; set a "
                "smaller share, or objective = 'cross_entropy'"
            )
        if training.crop_size % GRID > 1:
            below, above = training.crop_size // GRID * GRID, (training.crop_size // GRID + 1) * GRID
            raise ValueError(
                f"{instance.name}.crop_size = {training.crop_size}: objective = {self.name!r} needs a multiple of its "
                f"grid's stride {GRID}, or one pixel more (the paper's 321 pixels: a grid of 41); set {below}, "
                f"{below + 1} or {above}"
            )

    def check_environment(self, instance: Instance) -> None:
        """Check, without weights, that the encoder's grid has the crop's corners, if that is asked for."""
        import torch

        from wsss.models.deeplab_heads import DeepLab

        side = self.training.crop_size
        if not is_corner_to_corner(side):
            return
        with torch.device("meta"):
            network = self.network(instance, pretrained=False).eval()
            if isinstance(network, DeepLab):
                try:
                    network.strided_logits(torch.zeros(1, 3, side, side))
                except ValueError as error:
                    raise ValueError(f"crop_size = {side}, encoder = {self.training.encoder!r}: {error}") from None

    def network(self, instance: Instance, *, pretrained: bool) -> Segmenter | DeepLab:
        """A DeepLab whose grid is that of the crops, with their corners."""
        from wsss.models.deeplab_heads import DeepLab

        network = super().network(instance, pretrained=pretrained)
        if isinstance(network, DeepLab):
            network.corner_to_corner = is_corner_to_corner(self.training.crop_size)
        return network

    def loss_units(self, instance: Instance) -> Units:
        """The dense CRF in the training loop, on the grid."""
        pixels, labels = grid_side(self.training.crop_size) ** 2 / 1e6, len(instance.taxonomy) + 1
        steps = self.settings.loop_crf_iterations * labels
        return {"crf_lattice": pixels, "crf_step_label": pixels * steps}

    def task(self, instance: Instance) -> Task:
        from wsss.tasks.semi_supervised import SemiSupervisedTask

        training, task = self.training, self.weak_task(instance)
        if training.supervision() != "semi":
            return task
        weight, ignored = resolved(training, "full_weight"), label_type(len(instance.taxonomy)).ignore
        return SemiSupervisedTask(task, full_weight=weight, per_image=True, ignore_index=ignored)

    def weak_task(self, instance: Instance) -> SegmenterTask:
        """The loss of the images without masks."""
        from wsss.tasks.dsrg import DsrgTask

        return DsrgTask(
            self.starting_network(instance),
            crf=self.crf_in_the_loop(),
            foreground_threshold=self.settings.growing_foreground_threshold,
            background_threshold=self.settings.growing_background_threshold,
            synchronise_norms=self.training.synchronise_norms,
        )

    def crf_in_the_loop(self) -> CrfInTheLoop:
        """The CRF on the grid."""
        from wsss.ops.dense_crf import BilateralKernel, GaussianKernel
        from wsss.tasks.dsrg import CrfInTheLoop

        given = self.settings
        gaussian_sxy, gaussian_weight = given.loop_crf_gaussian
        bilateral_sxy, srgb, bilateral_weight = given.loop_crf_bilateral
        return CrfInTheLoop(
            num_iterations=given.loop_crf_iterations,
            gaussian=GaussianKernel(sxy=gaussian_sxy / given.loop_crf_scale, compat=gaussian_weight),
            bilateral=BilateralKernel(sxy=bilateral_sxy / given.loop_crf_scale, srgb=srgb, compat=bilateral_weight),
        )

    def training_set(self, instance: Instance) -> TrainingSet:
        training = self.training
        if training.supervision() == "image":
            return self._seeded(instance, full=frozenset())
        full = training.full_keys(instance)
        masked = training.masked_images(instance, full, name="mask")
        return training.mixed(instance, masked, self._seeded(instance, full=full))

    def _seeded(self, instance: Instance, *, full: frozenset[str]) -> SegmenterImages:
        training = self.training
        records = training.joined(
            instance, ("samples", "seeds"), lanes=training.lanes(masked=False), keep=lambda key: key not in full
        )
        return self.images()(training, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1)

    def images(self) -> type[SeededImages]:
        """The training set of the images without masks."""
        from wsss.stages.segmenter.images import SeededImages

        return SeededImages
