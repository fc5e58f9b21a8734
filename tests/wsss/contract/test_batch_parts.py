"""Batches in parts: a GPU without memory is a function that raises torch's error above a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from wsss.contract.batch_parts import BatchParts
from wsss.contract.gpu_memory import is_gpu_failure, is_out_of_gpu_memory
from wsss.contract.shard_measures import begin_measures


def with_room_for(pixels: int, *, each: int, tried: list[int]) -> Callable[[Sequence[int]], list[int]]:
    def make(part: Sequence[int]) -> list[int]:
        tried.append(len(part))
        if len(part) * each > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * one for one in part]

    return make


def test_everything_fits() -> None:
    measured, tried = begin_measures(), list[int]()
    parts = BatchParts(8, setting="batch_images")
    found = list(parts.results(list(range(19)), with_room_for(1000, each=10, tried=tried), pixels=10))
    assert [one for part in found for one in part] == [2 * n for n in range(19)]
    assert tried == [8, 8, 3] and measured.noted() == {}


def test_halves_until_it_fits_and_remembers() -> None:
    measured, tried = begin_measures(), list[int]()
    parts = BatchParts(8, setting="batch_images")
    make = with_room_for(37, each=10, tried=tried)
    found = list(parts.results(list(range(11)), make, pixels=10))
    assert [one for part in found for one in part] == [2 * n for n in range(11)]
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1], "eight and four do not fit, two do"
    assert measured.noted() == {"fewer.batch_images": 2.0}
    tried.clear()
    list(parts.results(list(range(5)), make, pixels=10))
    assert tried == [2, 2, 1], "what does not fit is not tried again"


def test_what_fits_depends_on_the_pixels() -> None:
    begin_measures()
    parts, tried = BatchParts(8, setting="batch_images"), list[int]()
    list(parts.results(list(range(8)), with_room_for(400, each=100, tried=tried), pixels=100))
    assert tried == [8, 4, 4]
    assert [parts.together(pixels) for pixels in (10, 50, 99, 101, 401)] == [8, 8, 4, 3, 1]


def test_tensors_are_divided_along_their_first_axis() -> None:
    begin_measures()
    image_23HW, tried = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7), list[int]()

    def make(part_V3HW: torch.Tensor) -> torch.Tensor:
        tried.append(len(part_V3HW))
        if len(part_V3HW) > 1:
            raise torch.OutOfMemoryError
        return part_V3HW + 1

    parts = BatchParts(2, setting="views")
    assert torch.equal(torch.cat(list(parts.results(image_23HW, make, pixels=35))), image_23HW + 1)
    assert tried == [2, 1, 1]


def test_one_image_that_does_not_fit_is_an_error() -> None:
    begin_measures()
    tried: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        list(BatchParts(4, setting="b").results([1, 2, 3], with_room_for(5, each=10, tried=tried), pixels=10))
    assert tried == [3, 1]


def test_other_errors_are_not_tried_again() -> None:
    begin_measures()
    tried: list[int] = []

    def make(part: Sequence[int]) -> None:
        tried.append(len(part))
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(BatchParts(4, setting="b").results([1, 2, 3], make, pixels=10))
    assert tried == [3]


def test_which_errors_mean_that_there_is_no_memory() -> None:
    assert is_out_of_gpu_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_gpu_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    for words in (
        "CUDA error: out of memory",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_gpu_memory(torch.AcceleratorError(words)) and not is_gpu_failure(torch.AcceleratorError(words))
    broken = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert not is_out_of_gpu_memory(broken) and is_gpu_failure(broken)
    assert not is_gpu_failure(RuntimeError("torn"))
    assert not is_out_of_gpu_memory(MemoryError()), "the machine's memory, which no smaller batch of a GPU saves"
