"""`wsss compare`: results over the same images, each compared with the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from shards.wording import counted
from tuning.label_maps import LabelMaps, Place, Truth, maps_of, truth_of
from tuning.lineage import Aligned, align
from tuning.named_results import CompareError, Result, find_results
from tuning.paired_comparison import Comparison, compare_counts
from tuning.pixel_counts import ImageCounts, count_images

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two or more results, and what was measured of the others against the first."""

    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    """One for every result after the first."""
    alignments: tuple[tuple[Aligned, ...], ...]
    """The lineages side by side, in the same order; empty where one is a zip."""
    classes: tuple[str, ...]
    """Of all labels, the background first."""
    notes: tuple[str, ...]
    images: Images = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a comparison, so that some of them can be drawn."""

    maps: tuple[LabelMaps, ...]
    truths: tuple[Truth, ...]
    counts: tuple[ImageCounts, ...]


def compare_results(
    names: Sequence[str],
    *,
    runs: Path,
    uri: str = "",
    common: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compared:
    """Compare results, named as in `find_results`. Raises `CompareError`.

    `common`: if their images differ, compare them on the images that all of them have; otherwise that is an error,
    because a difference of means over different images says nothing about the results.
    """
    notes: list[str] = []
    results = find_results(list(names), runs=runs, uri=uri, notes=notes)
    maps = [maps_of(result, runs=runs) for result in results]
    truths = list({t.fingerprint: t for t in (truth_of(result, runs=runs) for result in results) if t}.values())
    if any(one.zip_file is not None for one in maps):  # a submission has no folders
        maps = [replace(one, places=_by_file_name(one.places)) for one in maps]
        truths = [_flat(truth) for truth in truths]
    keys, has_truth = _same_images(results, maps, truths, common=common, notes=notes)
    positions = truths[0].positions if truths else {}
    masks = [(truth.layer, truth.places) for truth in truths] if has_truth else []
    found = list(count_images(keys, maps=maps, truths=masks, positions=positions, on_progress=on_progress))
    counts = _without_problems(found, common=common, notes=notes)
    classes = _class_names(results, truths, counts)
    notes += _given_labels(results)
    comparisons = tuple(compare_counts(counts, place=place, names=classes) for place in range(1, len(results)))
    return Compared(
        results=tuple(results),
        comparisons=comparisons,
        alignments=tuple(_aligned(results[0], other) for other in results[1:]),
        classes=classes,
        notes=tuple(notes),
        images=Images(maps=tuple(maps), truths=tuple(truths), counts=tuple(counts)),
    )


def _aligned(first: Result, other: Result) -> tuple[Aligned, ...]:
    return () if first.lineage is None or other.lineage is None else tuple(align(first.lineage, other.lineage))


def _given_labels(results: Sequence[Result]) -> list[str]:
    """A note if only some results were made with the labels of the images: these are no fair rivals of the others."""
    given = [result.label for result in results if result.row is not None and result.row.labels_given]
    if not given or len(given) == len(results):
        return []
    return [f"made with the labels of the images, which the others did not have: {', '.join(given)}"]


def _by_file_name(values: Mapping[str, V]) -> dict[str, V]:
    return {PurePosixPath(key).name: value for key, value in values.items()}


def _flat(truth: Truth) -> Truth:
    masked = frozenset(PurePosixPath(key).name for key in truth.masked)
    places, positions = _by_file_name(truth.places), _by_file_name(truth.positions)
    return replace(truth, places=places, positions=positions, masked=masked)


def _same_images(
    results: Sequence[Result], maps: Sequence[LabelMaps], truths: Sequence[Truth], *, common: bool, notes: list[str]
) -> tuple[list[str], bool]:
    """The keys to compare, in the order of the first result, and whether they have masks."""
    lists = [set(one.places) for one in maps]
    shared = set.intersection(*lists)
    if not shared:
        raise CompareError(f"the results have no image in common: {_sizes(results, lists, maps)}")
    if any(len(one) != len(shared) for one in lists):
        text = f"the results are over different images: {_sizes(results, lists, maps)}; {len(shared)} in common"
        if not common:
            raise CompareError(
                f"{text}; a difference of their means would compare the images as well; --common compares them on the "
                "images that all of them have"
            )
        notes.append(f"{text}, on which they are compared")
    masked = shared.intersection(*(truth.masked for truth in truths)) if truths else set()
    if masked and len(masked) < len(shared):
        notes.append(f"{counted(len(shared) - len(masked), 'image')} without a mask not compared")
    chosen = masked or shared
    return [key for key in maps[0].places if key in chosen], bool(masked)


def _sizes(results: Sequence[Result], lists: Sequence[set[str]], maps: Sequence[LabelMaps]) -> str:
    return ", ".join(
        f"{result.label} {counted(len(keys), 'image')}{f' of {one.split}' if one.split else ''}"
        for result, keys, one in zip(results, lists, maps, strict=True)
    )


def _without_problems(found: Iterable[ImageCounts], *, common: bool, notes: list[str]) -> list[ImageCounts]:
    """The images that were counted. Raises `CompareError` where the masks of the results are not the same."""
    counts, problems = [], dict[str, list[str]]()
    for one in found:
        if one.problem:
            problems.setdefault(one.problem, []).append(one.key)
        else:
            counts.append(one)
    for problem, keys in problems.items():
        text = f"{counted(len(keys), 'image')} not compared ({problem}), such as {keys[0]}"
        if problem in ("its masks differ", "label maps of different sizes") and not common:
            raise CompareError(f"{text}; --common compares the results on the other {counted(len(counts), 'image')}")
        notes.append(text)
    if not counts:
        raise CompareError(f"no image can be compared: {notes[-1] if notes else 'the layers are empty'}")
    return counts


def _class_names(results: Sequence[Result], truths: Sequence[Truth], counts: Sequence[ImageCounts]) -> tuple[str, ...]:
    """Names of all labels. Raises `CompareError` if the results have different classes, or labels without a name."""
    lists = {truth.classes or _recorded_classes(results) for truth in truths}
    if len(lists) > 1:
        (first, second), num = sorted(lists)[:2], 5
        raise CompareError(
            f"the results have different classes, so their labels cannot be compared: {', '.join(first[:num])} "
            f"against {', '.join(second[:num])}"
        )
    highest = max(
        int(max(labels.max(initial=0) for labels in cells.labels))
        for one in counts
        for cells in (*one.against_truth, *one.against_first)
    )
    names = next(iter(lists), ()) or tuple(f"class {number}" for number in range(1, highest + 1))
    if highest > len(names):
        raise CompareError(f"a label map has the class id {highest}, but there are only {len(names)} classes")
    return ("background", *names)


def _recorded_classes(results: Sequence[Result]) -> tuple[str, ...]:
    """Names of the classes from a table of an evaluation, for samples of older versions, which do not have them."""
    for result in results:
        if result.record is not None and (rows := result.record.tables.get("per_class")):
            return tuple(str(row["class"]) for row in rows[1:])
    return ()


def place_of(truths: Sequence[Truth], key: str) -> tuple[Truth, Place] | None:
    """Where an image is, if its samples are known."""
    for truth in truths:
        if key in truth.places:
            return truth, truth.places[key]
    return None
