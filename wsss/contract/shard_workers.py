"""Workers for stages that make one record per sample: one image at a time, or several images of one size together.

Shape letters: `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar, cast

import numpy as np

from shards.layer import Layer
from shards.overlap import prepared_ahead
from shards.reader import join_shard
from shards.records import BadSampleError, Missing, Record, Sample
from shards.set_aside import one_at_a_time
from shards.work_notes import note
from wsss.contract.batch_parts import BatchParts
from wsss.contract.device import decoding_threads
from wsss.contract.shard_measures import measures
from wsss.contract.stage import ShardWorker

_WINDOW = 8
"""Images of equal size are searched for among this many times `batch_images` consecutive images."""
_AHEAD = 4
"""Records that are at least decoded ahead, where that is done."""
_T = TypeVar("_T")
Joined = Mapping[str, Record]
MakeGroup = Callable[[Sequence[Joined], Sequence[np.ndarray]], Sequence[Record]]
"""(joined records, their images u8[H, W, 3], all of one size) -> one record for each."""


def work_per_record(
    layers: Mapping[str, Layer],
    make: Callable[[Mapping[str, Record]], Record],
    *,
    leave_out: Callable[[Mapping[str, Record], str], Missing | None] | None = None,
    reads_images: bool = True,
) -> ShardWorker:
    """The worker that joins `layers` (one of them `samples`) by key and makes one record of each group.

    A record that is missing in a layer is passed on as missing. If `make` raises `BadSampleError`, the record becomes
    missing with that error's text as the reason. `leave_out`: called with a group and the shard's name, returns the
    `Missing` for a record that the settings leave out, or None. `reads_images`: False if `make` does not read the
    sample's image, which is then not decoded ahead.
    """

    def work(shard: str) -> Iterator[Record | Missing]:
        for joined in _joined(layers, shard, leave_out=leave_out, reads_images=reads_images, ahead=_AHEAD):
            if isinstance(joined, Missing):
                yield joined
                continue
            if leave_out is not None and (missing := leave_out(joined, shard)) is not None:
                yield missing
                continue
            try:
                yield make(joined)
            except BadSampleError as error:
                yield Missing(key=joined["samples"].key, reason=str(error))

    return work


def work_per_group(
    layers: Mapping[str, Layer],
    make: MakeGroup,
    *,
    parts: BatchParts,
    leave_out: Callable[[Joined, str], Missing | None],
) -> ShardWorker:
    """The worker that joins `layers` (one of them `samples`) by key and makes the records of up to `parts.most`
    images of one size together, fewer after a GPU ran out of memory. The records are returned in the samples' order.

    Records that are missing, left out or cannot be decoded are passed on with their reason, as by `work_per_record`.
    """

    def work(shard: str) -> Iterator[Record | Missing]:
        window_size = 1 if one_at_a_time() or parts.most == 1 else _WINDOW * parts.most
        joined = _joined(layers, shard, leave_out=leave_out, reads_images=True, ahead=max(_AHEAD, window_size))
        for window in _batched(joined, window_size):
            yield from _records(window, make, shard, parts, leave_out)

    return work


def _joined(
    layers: Mapping[str, Layer],
    shard: str,
    *,
    leave_out: Callable[[Joined, str], Missing | None] | None,
    reads_images: bool,
    ahead: int,
) -> Iterator[Joined | Missing]:
    """The joined records; read and decoded ahead in threads if this worker has threads for that."""
    joined, threads = join_shard(layers, shard, how="inner"), decoding_threads()
    if not threads or one_at_a_time():
        yield from joined
        return

    def decode(one: Joined | Missing) -> Joined | Missing:
        if isinstance(one, Missing) or not reads_images or (leave_out is not None and leave_out(one, shard)):
            return one
        return {**one, "samples": cast(Sample, one["samples"]).with_image()}

    for one in prepared_ahead(joined, decode, ahead=ahead, threads=threads, waiting=measures().reading):
        note(sample=one.key if isinstance(one, Missing) else one["samples"].key)
        yield one


def _records(
    window: Sequence[Joined | Missing],
    make: MakeGroup,
    shard: str,
    parts: BatchParts,
    leave_out: Callable[[Joined, str], Missing | None],
) -> Iterator[Record | Missing]:
    made: dict[int, Record | Missing] = {}
    by_size: dict[tuple[int, int], list[tuple[int, Joined, np.ndarray]]] = {}
    for index, joined in enumerate(window):
        if isinstance(joined, Missing):
            made[index] = joined
            continue
        if (left_out := leave_out(joined, shard)) is not None:
            made[index] = left_out
            continue
        sample = cast(Sample, joined["samples"])
        try:
            by_size.setdefault(sample.size, []).append((index, joined, sample.image))
        except BadSampleError as error:
            made[index] = Missing(key=sample.key, reason=str(error))

    def make_group(group: Sequence[tuple[int, Joined, np.ndarray]]) -> dict[int, Record]:
        indices, together, images = zip(*group, strict=True)
        note(sample=", ".join(cast(Sample, joined["samples"]).key for joined in together))
        return dict(zip(indices, make(together, images), strict=True))

    for (height, width), of_size in by_size.items():
        for of_group in parts.results(of_size, make_group, pixels=height * width):
            made |= of_group
    yield from (made[index] for index in range(len(window)))


def _batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items; the last one may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
