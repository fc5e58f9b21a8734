"""Label maps of a result, image by image: from a layer, from score maps and their thresholds, or from a zip."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from shards.codec import decode
from shards.images import decode_index_png, decode_label_png
from shards.label_type import WIDE, ignore_of, label_type
from shards.layer import Layer, ShardError
from shards.manifest_entry import ManifestEntry, RecordEntry
from shards.reader import read_members
from shards.records import (
    BadSampleError,
    CamRecord,
    InstanceLabel,
    Prediction,
    PseudoLabel,
    Sample,
    ScoreRecord,
)
from tuning.lineage import Ancestor
from tuning.named_results import CompareError, Result
from wsss.stages.data_sets.shards import tars_of_run
from wsss.stages.evaluation.measured_images import choice
from wsss.stages.registry import STAGES

LABELLED = (PseudoLabel.kind, Prediction.kind, InstanceLabel.kind)
SCORED = (CamRecord.kind, ScoreRecord.kind)


@dataclass(frozen=True)
class Place:
    """Where a record is stored; `shard` is empty for a file of a zip."""

    shard: str
    entry: RecordEntry


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """The label maps of one result. Small: it is sent to other processes, which read the maps."""

    layer: Layer | None
    zip_file: Path | None
    split: str
    places: Mapping[str, Place] = field(repr=False)
    """Key -> where its record is, in the order of the layer."""
    thresholds: tuple[float, float] | None = None
    """For maps of scores: the thresholds for images of even and of odd positions, as the evaluation chose them."""
    by_peaks: bool = False
    """Maps of scores: FickleNet's rule."""

    def without_places(self) -> LabelMaps:
        return replace(self, places={})

    def read(self, place: Place, *, position: int, size: tuple[int, int] | None = None) -> np.ndarray | None:
        """u8 or u16[H, W]; None for an image with unknown classes, which evaluations leave out."""
        if self.zip_file is not None:
            try:
                return decode_index_png(_archive(self.zip_file).read(place.entry.key))
            except (BadSampleError, zipfile.BadZipFile) as error:
                raise CompareError(f"{self.zip_file}, {place.entry.key}: {error}") from None
        assert self.layer is not None
        members, kind = read_members(self.layer, place.shard, place.entry), self.layer.kind
        if kind in (PseudoLabel.kind, Prediction.kind):
            mask = decode_label_png(members["mask.png"])
            return None if kind == PseudoLabel.kind and bool((mask == ignore_of(mask)).any()) else mask
        record = decode(kind, place.entry.key, members)
        if isinstance(record, InstanceLabel):
            return record.mask
        assert self.thresholds is not None
        return _from_scores(
            cast(CamRecord | ScoreRecord, record),
            threshold=self.thresholds[position % 2],
            size=size,
            by_peaks=self.by_peaks,
        )


@lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CompareError(f"{path} is not a readable zip file ({error}); download or make it again") from None


def _from_scores(
    record: CamRecord | ScoreRecord, *, threshold: float, size: tuple[int, int] | None, by_peaks: bool
) -> np.ndarray | None:
    """The label map that an evaluation counts at a threshold: the best class if its score reaches it, else 0."""
    import torch

    from wsss.data.images import magnify_scores, nearest, upsample
    from wsss.ops.stochastic_cam import ficklenet_label
    from wsss.ops.threshold_curve import NUM_BINS

    if record.unknown:
        return None
    size, device = size or record.size, torch.device("cpu")
    if not len(record.classes):
        return np.zeros(size, dtype=np.uint8)
    ids_K = torch.as_tensor(record.classes.astype(np.int64))
    dtype = label_type(int(ids_K.max())).dtype
    if by_peaks:
        assert isinstance(record, CamRecord) and record.peak is not None
        mean_KHW, peak_KHW = (nearest(maps, size) for maps in (record.maps, record.peak))
        label = ficklenet_label(mean_KHW, peak_KHW, classes=ids_K.tolist(), theta=threshold, ignore_index=WIDE.ignore)
        return torch.where(label == WIDE.ignore, 0, label).numpy().astype(dtype)
    maps_KHW = (
        upsample(record.maps, size, device=device)
        if isinstance(record, CamRecord)
        else magnify_scores(record.scores, size, device=device)
    )
    best_HW, index_HW = maps_KHW.max(0)
    bins_HW = (best_HW * NUM_BINS).floor().clamp(0, NUM_BINS - 1)
    return torch.where(bins_HW >= round(threshold * NUM_BINS), ids_K[index_HW], 0).numpy().astype(dtype)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The samples of a result: where every image of the split is, and which have a mask."""

    layer: Layer
    fingerprint: str
    classes: tuple[str, ...]
    places: Mapping[str, Place] = field(repr=False)
    positions: Mapping[str, int] = field(repr=False)
    masked: frozenset[str] = field(repr=False)


def maps_of(result: Result, *, runs: Path) -> LabelMaps:
    """The label maps behind a result. Raises `CompareError` if they are gone, naming the folder."""
    if result.lineage is None:
        names = [name for name in _archive(result.folder).namelist() if name.endswith(".png")]
        entries = {
            PurePosixPath(name).stem: Place("", RecordEntry(key=name, offset=0, length=0, digest="")) for name in names
        }
        return LabelMaps(layer=None, zip_file=result.folder, split="", places=entries)
    made, split = _made(result.lineage), split_of_result(result)
    layer, measured = _layer(made, runs=runs, result=result), _measured(result)
    places = {key: place for key, place in _places(layer, split, result).items() if measured(key)}
    if layer.kind not in (*LABELLED, *SCORED):
        raise CompareError(
            f"{result.label} measures records of kind {layer.kind}, which are not label maps; compare evaluations of "
            "scores, pseudo labels, instances or predictions"
        )
    if layer.kind in LABELLED:
        return LabelMaps(layer=layer, zip_file=None, split=split, places=places)
    metrics = {} if result.record is None else result.record.metrics
    from_a, from_b = (metrics.get(f"{split}.threshold_{fold}") for fold in "ab")
    if from_a is None or from_b is None:
        raise CompareError(f"{result.label} has no thresholds for {split}; run its evaluation again")
    by_peaks = result.lineage.settings.get("rule") == "ficklenet"
    # What one half of the images chose is used on the other.
    return LabelMaps(
        layer=layer, zip_file=None, split=split, places=places, thresholds=(from_b, from_a), by_peaks=by_peaks
    )


def split_of_result(result: Result) -> str:
    """The split that the leaderboard shows: the last one of an evaluation that had masks."""
    assert result.lineage is not None
    settings = result.lineage.settings
    if "split" in settings:
        return str(settings["split"])
    metrics = {} if result.record is None else result.record.metrics
    return str(next((s for s in reversed(settings["splits"]) if metrics.get(f"{s}.images")), settings["splits"][-1]))


def truth_of(result: Result, *, runs: Path) -> Truth | None:
    """The samples behind a result; None for a zip."""
    if result.lineage is None:
        return None
    samples = _samples(result.lineage)
    layer, split = _layer(samples, runs=runs, result=result), split_of_result(result)
    entries = [manifest.entries for manifest in _manifests(layer, split, result)]
    keys = [key for one in entries for key in one.keys]
    positions = [position for one in entries for position in one.metadata("position")]
    masked, measured = [has for one in entries for has in one.metadata("has_mask")], _measured(result)
    return Truth(
        layer=layer,
        fingerprint=samples.fingerprint,
        classes=layer.classes() or (),
        places=_places(layer, split, result),
        positions=dict(zip(keys, positions, strict=True)),
        masked=frozenset(key for key, has in zip(keys, masked, strict=True) if has is not False and measured(key)),
    )


def _measured(result: Result) -> Callable[[str], bool]:
    """Whether the evaluation measures an image: its `image_list` may exclude it."""
    settings = {} if result.lineage is None else result.lineage.settings
    if not (image_list := str(settings.get("image_list", ""))):
        return lambda key: True
    try:
        return choice(image_list, str(settings["list_use"]))
    except OSError as error:
        raise CompareError(f"{result.label} measures the images of a list that cannot be read: {error}") from error


def _made(lineage: Ancestor) -> Ancestor:
    """The instance that made the label maps."""
    slot = {"evaluate": "records", "submit": "predictions"}.get(lineage.kind)
    return lineage.upstream[slot] if slot else lineage


def _samples(lineage: Ancestor) -> Ancestor:
    node = lineage
    while node.upstream:
        node = node.upstream.get("samples", next(iter(node.upstream.values())))
    return node


def _layer(made: Ancestor, *, runs: Path, result: Result) -> Layer:
    folder, kind = made.folder(runs), STAGES[made.kind].record_kind  # type: ignore[attr-defined]
    if not folder.is_dir():
        raise CompareError(
            f"the {'images' if kind == Sample.kind else 'label maps'} of {result.label} are gone: there is no folder "
            f"{folder} ({made.name}); run its recipe again, or name the folder of runs that has them with --runs; "
            "wsss compare --recorded compares what MLflow recorded"
        )
    return Layer(folder, kind, tars_of_run(str(folder)))


def _manifests(layer: Layer, split: str, result: Result) -> Iterator[ManifestEntry]:
    try:
        yield from layer.manifest_entries(split)
    except ShardError as error:
        raise CompareError(
            f"what {result.label} was made from is incomplete: {error}; wsss compare --recorded compares what MLflow "
            "recorded"
        ) from error


def _places(layer: Layer, split: str, result: Result) -> dict[str, Place]:
    return {
        entry.key: Place(manifest.shard, replace(entry, metadata={}))
        for manifest in _manifests(layer, split, result)
        for entry in manifest.entries
    }
