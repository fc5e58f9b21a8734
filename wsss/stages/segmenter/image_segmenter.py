"""A training whose segmenter needs only an image as input; it may use masks of none, some or all training images."""

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
    """A training that produces a `wsss.models.segmenter.Segmenter` or a `wsss.models.deeplab_heads.DeepLab`."""

    trains: ClassVar[str] = "segmenter"

    def lanes(self, *, masked: bool) -> int:
        """Number of examples of one kind in a batch: images that train on their masks, or the others."""
        if self.supervision() != "semi":
            return self.batch_size
        return self.full_per_batch if masked else self.batch_size - self.full_per_batch

    def masked_images(self, instance: Instance, full: frozenset[str], *, name: str) -> SegmenterImages:
        """The images that train on their masks; the objective reads the masks under the key `name`."""
        from wsss.stages.segmenter.images import MaskedImages

        records = self.joined(instance, ["samples"], lanes=self.lanes(masked=True), keep=full.__contains__)
        return MaskedImages(self, records, seed=instance.seed, num_classes=len(instance.taxonomy) + 1, name=name)

    def mixed(self, instance: Instance, masked: SegmenterImages, others: SegmenterImages) -> TrainingSet:
        """Batches of both kinds. Raises ValueError if no image with weaker labels is left."""
        from wsss.stages.segmenter.images import MixedImages

        if not len(others):
            raise ValueError(
                f"{instance.name}.full_share = {self.full_share} leaves no training image with weaker labels; "
                "set a smaller share"
            )
        return MixedImages(masked, others, full_per_batch=self.full_per_batch, batch_size=self.batch_size)
