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

from shards.images import decode_index_png
from shards.layer import Layer
from shards.reader import read_members
from shards.records import IGNORE
from tuning.label_maps import LabelMaps, Place

_BYTES = 256
IN_ONE_PROCESS = 256
"""Up to this many images no further processes are started: starting one takes longer."""
_AT_ONCE = 64
"""Images per task of a process."""
MOST_PROCESSES = 8


@dataclass(frozen=True)
class Cells:
    """Pixels of one image by two labels: cell = first * 256 + second."""

    cells: np.ndarray
    """u16[N], ascending."""
    pixels: np.ndarray
    """i32[N]."""


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


def cells_of(first_HW: np.ndarray, second_HW: np.ndarray) -> np.ndarray:
    """Pixels by two u8 label maps of the same shape, i64[65536]."""
    pairs_HW = first_HW.astype(np.uint16) * np.uint16(_BYTES) + second_HW
    return np.bincount(pairs_HW.ravel(), minlength=_BYTES**2)


def _kept(counts: np.ndarray) -> Cells:
    """Without the cells of which one label is 255."""
    cells = np.flatnonzero(counts)
    cells = cells[(cells >> 8 != IGNORE) & (cells & 255 != IGNORE)]
    return Cells(cells.astype(np.uint16), counts[cells].astype(np.int32))


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
    against_truth = () if truth is None else tuple(_kept(cells_of(truth, label)) for label in labels)
    seen = labels if truth is None else [np.where(truth == IGNORE, IGNORE, label) for label in labels]
    against_first = tuple(_kept(cells_of(seen[0], label)) for label in seen[1:])
    return ImageCounts(key, against_truth, against_first)


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
        not np.array_equal(decode_index_png(masks[0]), decode_index_png(mask)) for mask in masks[1:]
    ):
        return "its masks differ"
    return decode_index_png(masks[0])
