"""A training that leaves a segmenter which needs an image alone, with masks of none, some or all training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from wsss.contract.fit import TrainingSet
from wsss.contract.settings import settings
from wsss.contract.stage import Instance
from wsss.stages.segmenter.mask_supervision import MixedBatches
from wsss.stages.segmenter.validation import SegmenterValidation

if TYPE_CHECKING:
    from wsss.stages.segmenter.images import SegmenterImages


@settings
class ImageSegmenterTraining(MixedBatches, SegmenterValidation):
    """A training that leaves a `wsss.models.segmenter.Segmenter` or a `wsss.models.deeplab_heads.DeepLab`."""

    trains: ClassVar[str] = "segmenter"

    def lanes(self, *, masked: bool) -> int:
        """Examples of one kind in a batch: of images that train on their masks, or of the others."""
        if self.supervision() != "semi":
            return self.batch_size
        return self.full_per_batch if masked else self.batch_size - self.full_per_batch

    def masked_images(self, instance: Instance, full: frozenset[str], *, name: str) -> SegmenterImages:
        """The images that train on their masks, which the objective reads as `name`."""
        from wsss.stages.segmenter.images import MaskedImages

        records = self.joined(instance, ["samples"], lanes=self.lanes(masked=True), keep=full.__contains__)
        return MaskedImages(self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1, name=name)

    def mixed(self, instance: Instance, masked: SegmenterImages, others: SegmenterImages) -> TrainingSet:
        """Batches of both. Raises ValueError where no image is left to learn from weaker labels."""
        from wsss.stages.segmenter.images import MixedImages

        if not len(others):
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share} leaves no training image to learn from weaker labels; "
                "set a smaller share"
            )
        return MixedImages(masked, others, full_per_batch=self.full_per_batch, batch_size=self.batch_size)
