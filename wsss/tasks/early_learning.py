"""Which classes' labels are corrected: those of which a network has learned the clean part and begins to learn noise.

Shape letters: `B` batch, `C` classes with background, `E` epochs, `H W` pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsss.ops.confusion import confusion_matrix
from wsss.ops.label_correction import corrected_labels
from wsss.tasks.learning_curve import has_slowed_down


class EarlyLearning(nn.Module):
    """Measures per class and epoch the IoU of predictions with the labels they learn, and decides by its curve.

    Early on the IoU rises fast; when it flattens, the network starts to memorise wrong labels. From the epoch after
    that on, the labels of the class are corrected, for the rest of the training. Counts, curves and decisions are
    buffers, hence part of a checkpoint, and every rank gets those of rank 0 when one is saved, after every epoch.

    Source: Liu et al., CVPR 2022 (ADELE).  Differs: the IoU is that of the training batches, of the network as it was
    at each step, so that no further pass over the images is needed; labels are corrected at every step by the teacher
    of that step, from one view, instead of once per class by the network's mean over scales; there is no consistency
    loss between scales.
    """

    counted: Tensor
    """i64[2, C]: pixels of the current epoch in the intersection and in the union of prediction and label."""
    curves: Tensor
    """f64[E, C]: IoU of the finished epochs; NaN for the others, and for a class neither labelled nor predicted."""
    num_done: Tensor
    """i64: number of finished epochs."""
    corrected: Tensor
    """bool[C]: classes whose labels are corrected."""

    def __init__(self, *, num_classes: int, num_epochs: int, limit: float, min_confidence: float) -> None:
        """`limit`: relative drop of the slope from which on a class is corrected; `min_confidence`: of the teacher."""
        super().__init__()
        self._limit, self._min_confidence = limit, min_confidence
        self.register_buffer("counted", torch.zeros(2, num_classes, dtype=torch.int64))
        self.register_buffer("curves", torch.full((num_epochs, num_classes), torch.nan, dtype=torch.float64))
        self.register_buffer("num_done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("corrected", torch.zeros(num_classes, dtype=torch.bool))

    def overlap(self, predicted_BHW: Tensor, *, label_BHW: Tensor, ignore_index: int) -> Tensor:
        """Intersection and union per class of these images, i64[2, C], without ignored pixels."""
        num_classes = len(self.corrected)
        pixels_CC = confusion_matrix(label_BHW, predicted_BHW, num_classes=num_classes, ignore_index=ignore_index)
        shared_C = pixels_CC.diagonal()
        return torch.stack([shared_C, pixels_CC.sum(0) + pixels_CC.sum(1) - shared_C])

    def correct(self, label_BHW: Tensor, *, taught_BHW: Tensor, confidence_BHW: Tensor, ignore_index: int) -> Tensor:
        """The labels of these images as they are to be learned."""
        return corrected_labels(
            label_BHW,
            taught_BHW=taught_BHW,
            confidence_BHW=confidence_BHW,
            corrected_C=self.corrected,
            min_confidence=self._min_confidence,
            ignore_index=ignore_index,
        )

    def add(self, overlap_2C: Tensor) -> None:
        """Count the images of one step of all ranks."""
        self.counted += overlap_2C

    def end_epoch(self) -> None:
        """Add the epoch to the curves, and decide about the classes that are not corrected yet."""
        shared_C, union_C = self.counted.double()
        self.curves[self.num_done] = shared_C / union_C  # 0 / 0 is NaN
        self.num_done += 1
        self.counted.zero_()
        iou_EC = self.curves[: int(self.num_done)].cpu().numpy()
        for number, corrected in enumerate(self.corrected.tolist()):
            if not corrected and has_slowed_down(iou_EC[:, number], limit=self._limit):
                self.corrected[number] = True
