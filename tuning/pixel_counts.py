"""Counts pixels by truth and label, image by image, for several results over the same images.

Per image a few cells of each table are not zero, so they are kept as lists of cells. Processes share the images; they
load neither torch nor Ray, unless label maps are made from scores.

Shape letters: `H W` pixels, `N` cells that are not zero.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from shards.images import decode_label_png
from shards.label_type import ignore_of
from shards.layer import Layer
from shards.reader import read_members
from tuning.label_maps import LabelMaps, Place

_BYTES = 256
LABELS = 1 << 16
"""Values of a label; in `Cells` the first label counts in steps of this."""
IN_ONE_PROCESS = 256
"""Up to this many images no further processes are started: starting one takes longer."""
_AT_ONCE = 64
"""Images per task of a process."""
MOST_PROCESSES = 8


@dataclass(frozen=True)
class Cells:
    """Pixels of one image by two labels: cell = first * 65536 + second."""

    cells: np.ndarray
    """u32[N], ascending."""
    pixels: np.ndarray
    """i32[N]."""

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second label of every cell, i64[N] each."""
        cells = self.cells.astype(np.int64)
        return cells // LABELS, cells % LABELS


@dataclass(frozen=True)
class ImageCounts:
    """The counts of one image; `problem` says why there are none."""

    key: str
    against_truth: tuple[Cells, ...] = ()
    """For every result: pixels by truth and label, without ignored ones; empty without a truth."""
    against_first: tuple[Cells, ...] = ()
    """For every result but the first: pixels by the label of the first and its own, without ignored ones."""
    problem: str = ""


@dataclass(frozen=True)
class _Task:
    """Some images, and where their masks and label maps are."""

    keys: tuple[str, ...]
    positions: tuple[int, ...]
    truth: Layer | None
    truth_places: tuple[tuple[Place, ...], ...]
    """For every layer with masks, the places of the images."""
    other_truth: tuple[Layer, ...]
    maps: tuple[LabelMaps, ...]
    places: tuple[tuple[Place, ...], ...]


def cells_of(first_HW: np.ndarray, second_HW: np.ndarray) -> Cells:
    """Pixels by two label maps of the same shape, without those that are ignored in one of them."""
    if first_HW.dtype == second_HW.dtype == np.uint8:
        pairs_HW = first_HW.astype(np.uint16) * np.uint16(_BYTES) + second_HW
        counts = np.bincount(pairs_HW.ravel(), minlength=_BYTES**2)
        pairs = np.flatnonzero(counts)
        first, second, pixels = pairs // _BYTES, pairs % _BYTES, counts[pairs]
    else:
        found, pixels = np.unique(first_HW.astype(np.int64) * LABELS + second_HW, return_counts=True)
        first, second = found // LABELS, found % LABELS
    kept = (first != ignore_of(first_HW)) & (second != ignore_of(second_HW))
    return Cells((first * LABELS + second)[kept].astype(np.uint32), pixels[kept].astype(np.int32))


def count_images(
    keys: Sequence[str],
    *,
    maps: Sequence[LabelMaps],
    truths: Sequence[tuple[Layer, Mapping[str, Place]]],
    positions: Mapping[str, int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ImageCounts]:
    """The counts of every image, in the order of `keys`.

    `truths`: layers with the masks, and the places of the images in them; pixels are compared with the first one's
    masks, and an image whose masks differ in the others has a `problem`. Empty: no masks.
    """
    bare = tuple(one.without_places() for one in maps)
    tasks = []
    for start in range(0, len(keys), _AT_ONCE):
        some = tuple(keys[start : start + _AT_ONCE])
        tasks.append(
            _Task(
                keys=some,
                positions=tuple(positions.get(key, 0) for key in some),
                truth=truths[0][0] if truths else None,
                truth_places=tuple(tuple(places[key] for key in some) for _, places in truths),
                other_truth=tuple(layer for layer, _ in truths[1:]),
                maps=bare,
                places=tuple(tuple(one.places[key] for key in some) for one in maps),
            )
        )
    workers = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    if len(keys) <= IN_ONE_PROCESS or workers == 1:
        for number, task in enumerate(tasks):
            yield from _count(task)
            on_progress(min((number + 1) * _AT_ONCE, len(keys)), len(keys))
        return
    # Forked processes could inherit locked locks of threads; spawned ones cannot.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        for number, found in enumerate(pool.map(_count, tasks)):
            yield from found
            on_progress(min((number + 1) * _AT_ONCE, len(keys)), len(keys))


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _count(task: _Task) -> list[ImageCounts]:
    return [_count_image(task, number) for number in range(len(task.keys))]


def _count_image(task: _Task, number: int) -> ImageCounts:
    key, truth = task.keys[number], _truth(task, number)
    if isinstance(truth, str):
        return ImageCounts(key, problem=truth)
    size = None if truth is None else (truth.shape[0], truth.shape[1])
    labels: list[np.ndarray] = []
    for one, places in zip(task.maps, task.places, strict=True):
        label = one.read(places[number], position=task.positions[number], size=size)
        if label is None:
            return ImageCounts(key, problem="unknown classes")
        if label.shape != (truth if truth is not None else labels[0] if labels else label).shape:
            return ImageCounts(key, problem="label maps of different sizes")
        labels.append(label)
    against_truth = () if truth is None else tuple(cells_of(truth, label) for label in labels)
    seen = labels if truth is None else [_seen(truth, label) for label in labels]
    against_first = tuple(cells_of(seen[0], label) for label in seen[1:])
    return ImageCounts(key, against_truth, against_first)


def _seen(truth_HW: np.ndarray, label_HW: np.ndarray) -> np.ndarray:
    """A label map, ignored where the truth is."""
    return np.where(truth_HW == ignore_of(truth_HW), label_HW.dtype.type(ignore_of(label_HW)), label_HW)


def _truth(task: _Task, number: int) -> np.ndarray | str | None:
    """The mask of an image, None if there are no masks, or why it cannot be used."""
    if task.truth is None:
        return None
    masks = []
    for layer, places in zip((task.truth, *task.other_truth), task.truth_places, strict=True):
        members = read_members(layer, places[number].shard, places[number].entry)
        if "mask.png" not in members:
            return "no mask"
        masks.append(members["mask.png"])
    if len(set(masks)) > 1 and any(
        not np.array_equal(decode_label_png(masks[0]), decode_label_png(mask)) for mask in masks[1:]
    ):
        return "its masks differ"
    return decode_label_png(masks[0])
