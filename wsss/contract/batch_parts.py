"""Batches of images in parts: as many together as a setting says, and fewer after a GPU ran out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from wsss.contract.gpu_memory import free_gpu_memory, is_out_of_gpu_memory
from wsss.contract.shard_measures import measures

Result = TypeVar("Result")
VIEWS = "views"
"""Stands for a setting where the parts are an image and its mirror image."""


class BatchParts:
    """Remembers how much fits: parts of images of all sizes have at most half the pixels of what did not fit."""

    def __init__(self, most: int, *, setting: str) -> None:
        """`most` images together; `setting`: the setting that says so, for messages."""
        self.most, self._setting = most, setting
        self._most_pixels: int | None = None

    def together(self, pixels: int) -> int:
        """How many images of so many pixels are processed together."""
        return self.most if self._most_pixels is None else max(1, min(self.most, self._most_pixels // pixels))

    def results(self, batch: Any, make: Callable[[Any], Result], *, pixels: int) -> Iterator[Result]:
        """`make` of each part of a batch, in order; `batch` is a list or tensor of images of so many pixels each.

        After torch.OutOfMemoryError the part is made again in halves. Raises it for a part of one image.
        """
        done = 0
        while done < len(batch):
            number = min(self.together(pixels), len(batch) - done)
            try:
                made = make(batch[done : done + number])
            except Exception as error:
                if number == 1 or not is_out_of_gpu_memory(error):
                    raise
            else:
                done += number
                yield made
                continue
            # Outside the handler, whose traceback holds the tensors of the attempt.
            self._most_pixels = number * pixels // 2
            free_gpu_memory()
            measures().processed_fewer(self._setting, self.together(pixels))
