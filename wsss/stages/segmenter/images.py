"""The training sets of segmenters: augmented images with the labels that each objective reads."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from shards.label_type import BACKGROUND, label_type
from shards.records import GRID_STRIDE, CamRecord, ConfidentLabel, Record, Sample, SeedRecord
from wsss.contract.fit import Draw
from wsss.data.augmented_records import AugmentedRecords
from wsss.data.images import pixels
from wsss.data.joined_records import JoinedRecords
from wsss.stages.segmenter.box_planes import grid_planes, planes_of_boxes
from wsss.stages.segmenter.box_source import BoxSource
from wsss.stages.segmenter.training import SegmenterTraining
from wsss.tasks.dsrg import grid_colours, grid_labels
from wsss.tasks.dsrg_grid import grid_side


class SegmenterImages(AugmentedRecords):
    """Images augmented by the stage's settings."""

    def __init__(self, stage: SegmenterTraining, records: JoinedRecords, *, seed: int, num_classes: int) -> None:
        self.labels_type = label_type(num_classes - 1)
        super().__init__(records, replace(stage.changes(), fill_mask=self.labels_type.ignore), seed=seed)
        self.stage, self.num_classes = stage, num_classes

    @abstractmethod
    def example(self, draw: Draw) -> dict[str, Any]:
        """The tensors that the objective reads for one draw."""

    @abstractmethod
    def blank(self) -> dict[str, torch.Tensor]:
        """Placeholders for the tensors of `example` other than `image`, with the same shapes and types."""

    def _pixels(self, value: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.full((self.stage.crop_size, self.stage.crop_size), value, dtype=dtype)

    def checked(self, label_HW: np.ndarray, sample: Sample) -> np.ndarray:
        """The label map of an image. Raises `ValueError` if it has not the type of the data set's."""
        return self.labels_type.require(
            label_HW, name=f"the label map of {sample.key!r}", num_classes=self.num_classes - 1
        )


class PseudoLabelledImages(SegmenterImages):
    """Augmented images with pseudo labels."""

    def __init__(
        self,
        stage: SegmenterTraining,
        records: JoinedRecords,
        *,
        seed: int,
        num_classes: int,
        confidence_threshold: float,
        confidence_power: float,
    ) -> None:
        super().__init__(stage, records, seed=seed, num_classes=num_classes)
        self._threshold, self._power = confidence_threshold, confidence_power

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        image, changed = self.augmented(draw, sample, mask_HW=self.planes(draw, sample))
        assert changed is not None
        return {"key": sample.key, "image": pixels(image), **self.tensors(draw, sample, image, changed)}

    def planes(self, draw: Draw, sample: Sample) -> np.ndarray:
        """The label map [H, W]; with `confidence_power` [H, W, 2], the second plane with the confidence of every
        pixel."""
        labels = cast(ConfidentLabel, self.records.record(draw.index, "pseudo_labels"))
        mask = self.checked(labels.confident_mask(self._threshold), sample)
        return np.stack([mask, labels.pixel_confidence], axis=2) if self._power else mask

    def tensors(
        self, draw: Draw, sample: Sample, image_HW3: np.ndarray, changed: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """`label`, and with `confidence_power` `weight`, from the augmented planes."""
        label_HW = changed[..., 0] if changed.ndim == 3 else changed
        label = {"label": torch.from_numpy(label_HW.astype(np.int64))}
        if not self._power:
            return label
        return label | {"weight": torch.from_numpy((changed[..., 1] / 255.0) ** self._power).float()}

    def blank(self) -> dict[str, torch.Tensor]:
        label = {"label": self._pixels(self.labels_type.ignore)}
        return label | {"weight": self._pixels(0, torch.float32)} if self._power else label


class SeededImages(SegmenterImages):
    """Augmented images with seeds and colours on the grid, and the classes present."""

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        seeds = cast(SeedRecord, self.records.record(draw.index, "seeds"))
        image, label = self.augmented(draw, sample, mask_HW=self.checked(seeds.label, sample))
        assert label is not None
        present_C = torch.zeros(self.num_classes, dtype=torch.bool)
        present_C[[0, *sample.classes]] = True
        if sample.unknown:  # make_cams may have predicted some of them
            found = np.bincount(seeds.label.ravel(), minlength=self.num_classes)[: self.num_classes]
            present_C |= torch.from_numpy(found > 0)
        return {
            "key": sample.key,
            "image": pixels(image),
            "seeds": grid_labels(label),
            "present": present_C,
            "pixels": grid_colours(image),
            **self.labels(sample),
        }

    def labels(self, sample: Sample) -> dict[str, torch.Tensor]:
        """What else the objective reads of the image's labels."""
        return {}

    def blank(self) -> dict[str, torch.Tensor]:
        side = grid_side(self.stage.crop_size)
        return {
            "seeds": torch.full((side, side), self.labels_type.ignore, dtype=torch.int64),
            "present": torch.zeros(self.num_classes, dtype=torch.bool),
            "pixels": torch.zeros((side, side, 3), dtype=torch.uint8),
        }


class LabelledSeededImages(SeededImages):
    """`SeededImages` with the classes that are known to be absent."""

    def labels(self, sample: Sample) -> dict[str, torch.Tensor]:
        return {"absent": absent_classes(sample, num_classes=self.num_classes)}

    def blank(self) -> dict[str, torch.Tensor]:
        return super().blank() | {"absent": torch.zeros(self.num_classes, dtype=torch.bool)}


class MaskedImages(SegmenterImages):
    """Augmented images with their own masks, under the key that the objective reads."""

    def __init__(
        self,
        stage: SegmenterTraining,
        records: JoinedRecords,
        *,
        seed: int,
        num_classes: int,
        name: str = "label",
    ) -> None:
        super().__init__(stage, records, seed=seed, num_classes=num_classes)
        self._name = name

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        image, changed = self.augmented(draw, sample, mask_HW=self.checked(mask_of(sample), sample))
        assert changed is not None
        label_HW = torch.from_numpy(changed.astype(np.int64))
        return {"key": sample.key, "image": pixels(image), self._name: label_HW}

    def blank(self) -> dict[str, torch.Tensor]:
        return {self._name: self._pixels(self.labels_type.ignore)}


class BoxedImages(SegmenterImages):
    """Augmented images with the planes of their boxes, and their masks. Without `masked`, the mask is 0 inside the
    image and ignored where the crop extends beyond it, and everywhere in an image with unknown classes."""

    def __init__(
        self,
        stage: SegmenterTraining,
        records: JoinedRecords,
        *,
        seed: int,
        num_classes: int,
        boxes: BoxSource,
        masked: bool,
    ) -> None:
        super().__init__(stage, records, seed=seed, num_classes=num_classes)
        self._boxes, self._masked = boxes, masked

    def example(self, draw: Draw) -> dict[str, Any]:
        sample = self.records.sample(draw.index)
        cams = self.records.record(draw.index, "cams") if self._boxes.box_source == "cams" else None
        classes, inside = planes_of_boxes(self._boxes.boxes_of(sample, cams), size=sample.size)
        if self._masked:
            mask = self.checked(mask_of(sample), sample)
        else:
            mask = np.full(sample.size, self._outside_boxes(cams), self.labels_type.dtype)
        image, changed = self.augmented(draw, sample, mask_HW=np.concatenate([mask[..., None], inside], axis=2))
        assert changed is not None
        return {
            "key": sample.key,
            "image": pixels(image),
            "label": torch.from_numpy(changed[..., 0].astype(np.int64)),
            "boxes": grid_planes(changed[..., 1:], classes, num_classes=self.num_classes),
        }

    def _outside_boxes(self, cams: Record | None) -> int:
        """The label of pixels without a mask: 0, or ignored in an image that may show classes without a box."""
        return self.labels_type.ignore if isinstance(cams, CamRecord) and cams.unknown else BACKGROUND

    def blank(self) -> dict[str, torch.Tensor]:
        side = len(range(GRID_STRIDE // 2, self.stage.crop_size, GRID_STRIDE))
        boxes = torch.zeros((self.num_classes, side, side), dtype=torch.bool)
        return {"label": self._pixels(self.labels_type.ignore), "boxes": boxes}


def absent_classes(sample: Sample, *, num_classes: int) -> torch.Tensor:
    """bool[C], true for classes that are known not to be in the image; never the background."""
    absent_C = torch.ones(num_classes, dtype=torch.bool)
    absent_C[[0, *sample.classes, *sample.unknown]] = False
    return absent_C


def mask_of(sample: Sample) -> np.ndarray:
    """The mask, u8 or u16[H, W], of an image that was selected because it has one."""
    assert sample.mask is not None, f"{sample.key} was drawn for its mask and has none"
    return sample.mask


class MixedImages:
    """Batches that mix a few images with masks and many others. Those with masks are spread evenly over each batch, so
    that every rank gets some.

    An epoch is one pass over the others. The images with masks have epochs of their own, which may be shorter or
    longer. A last, short batch has both kinds in proportion. The order depends only on (seed, epoch).
    """

    def __init__(self, full: SegmenterImages, others: SegmenterImages, *, full_per_batch: int, batch_size: int) -> None:
        self._full, self._others = full, others
        self._full_per_batch, self._others_per_batch = full_per_batch, batch_size - full_per_batch
        self._blank = full.blank() | others.blank()

    def __len__(self) -> int:
        return len(self._full) + len(self._others) if len(self._full) and len(self._others) else 0

    def order(self, epoch: int) -> np.ndarray:
        others, size = self._others.order(epoch) + len(self._full), self._others_per_batch
        parts = [others[start : start + size] for start in range(0, len(others), size)]
        shares = [max(1, round(self._full_per_batch * len(part) / size)) for part in parts]
        full = self._full_stream(epoch * sum(shares), sum(shares))
        ends = np.cumsum([0, *shares])
        mixed = [_spread(full[ends[n] : ends[n + 1]], part) for n, part in enumerate(parts)]
        return np.concatenate(mixed) if mixed else others

    def num_draws(self, epoch: int) -> int:
        return len(self.order(epoch))

    def _full_stream(self, start: int, number: int) -> np.ndarray:
        """Entries start..start+number-1 of the concatenated epochs of the images with masks."""
        size = len(self._full)
        first, last = start // size, (start + number - 1) // size
        passes = np.concatenate([self._full.order(epoch) for epoch in range(first, last + 1)])
        return passes[start - first * size :][:number]

    def name_of(self, index: int) -> str:
        size = len(self._full)
        return self._full.name_of(index) if index < size else self._others.name_of(index - size)

    def example(self, draw: Draw) -> dict[str, Any]:
        is_full = draw.index < len(self._full)
        if is_full:
            example = self._full.example(draw)
        else:
            example = self._others.example(Draw(draw.index - len(self._full), draw.epoch, draw.occurrence))
        return {**self._blank, **example, "is_full": torch.tensor(is_full)}


def _spread(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Merge both, in order: the k-th of `few` is at index k n / len(few) of all n."""
    number = len(few) + len(many)
    mixed, is_few = np.empty(number, dtype=np.int64), np.zeros(number, dtype=bool)
    is_few[np.arange(len(few)) * number // len(few)] = True
    mixed[is_few], mixed[~is_few] = few, many
    return mixed
