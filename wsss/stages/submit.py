"""submit: predictions -> results.zip as the LID server takes it, and the check of such a file."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, cast

import numpy as np

from shards.files import replacing
from shards.images import decode_index_png, encode_png, image_mode
from shards.layer import INDEX, Layer, split_of
from shards.reader import read_shard
from shards.records import Prediction, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork, Storage
from wsss.contract.counts import Counts
from wsss.contract.settings import setting_values, settings
from wsss.contract.stage import Instance, Map, Outcome, Records, Reduce, ShardCounter, Slot

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""A fixed date, so that the same predictions give the same file."""


@settings
class Submit(Reduce):
    """Pack one split's predictions: a flat zip with one uint8 single-channel PNG per image, at its original size."""

    kind: ClassVar[str] = "submit"
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), "predictions": Records((Prediction,))}

    split: str = "val"
    """Split to submit."""

    def check(self, instance: Instance) -> None:
        predict, stage = instance.inputs["predictions"].name, instance.stage_in("predictions", Map)
        if self.split not in stage.splits:
            raise ValueError(f"{instance.name}.split = {self.split!r}; {predict} predicts {', '.join(stage.splits)}")
        if stage.given_labels():
            raise ValueError(
                f"{instance.name}: {predict} uses the images' labels, which no competitor has; name predictions with "
                "labels = 'none' under inputs"
            )

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["predictions"].layer.shards() if split_of(shard) == self.split]

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """The driver packs all predictions of a split into one file."""
        count, size = context.images("predictions").get(self.split, 0), context.record_bytes("predictions")
        shards, pixels = context.num_shards({self.split: count}), count * context.stats.megapixels
        return ShardWork(
            images=count,
            shards=shards,
            load=Load(),
            has_network=False,
            storage=Storage(read=count * size, written=count * size, requests=2.0 * shards),
            driver={"read_mask": pixels, "write_mask": pixels},
        )

    def counter(self, instance: Instance) -> ShardCounter:
        layer = instance.inputs["predictions"].layer

        def count(shard: str) -> Counts:
            row = layer.row(shard)
            sums = {"images": row.count, "missing": len(row.missing)}
            return Counts(sums={name: np.array(value, dtype=np.int64) for name, value in sums.items()})

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        if missing := counts.total("missing"):
            raise ValueError(
                f"{instance.name}: {missing} predictions of split {self.split!r} are missing, and a "
                f"submission needs every image; the reasons stand in {instance.inputs['predictions'].path / INDEX}"
            )
        path, keys = instance.path / "results.zip", dict[str, str]()
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for shard in self.shards(instance):
                for record in read_shard(instance.inputs["predictions"].layer, shard):
                    name = f"{PurePosixPath(record.key).name}.png"
                    if name in keys:
                        raise ValueError(
                            f"{instance.name}: {keys[name]} and {record.key} would both be {name}; a submission "
                            "is flat, so the images of a split need different file names"
                        )
                    keys[name] = record.key
                    archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), encode_png(cast(Prediction, record).mask))
        return Outcome(
            metrics={"images": float(counts.total("images"))},
            tables={"lineage": lineage_rows(instance)},
            artifacts={"results.zip": str(path)},
        )


def lineage_rows(instance: Instance) -> list[dict[str, object]]:
    """Every setting behind a result: one row per setting of the instance and of all that it descends from.

    The fingerprint of a row's instance names its checkpoint or layer; `splits` and the like are JSON.
    """
    rows: list[dict[str, object]] = []
    for name, one in sorted(_behind(instance).items()):
        inputs = {f"inputs.{slot}": upstream.name for slot, upstream in one.inputs.items()}
        for setting, value in (setting_values(one.stage) | inputs).items():
            text = value if isinstance(value, str) else json.dumps(value)
            facts: dict[str, object] = {"instance": name, "kind": one.stage.kind, "fingerprint": one.fingerprint}
            rows.append(facts | {"setting": f"{name}.{setting}", "value": text})
    return rows


def _behind(instance: Instance) -> dict[str, Instance]:
    found = {instance.name: instance}
    for upstream in instance.inputs.values():
        found |= _behind(upstream)
    return found


def expected_images(samples: Path, split: str) -> dict[str, tuple[int, int]]:
    """Basename -> (H, W) of every image of one split of a samples layer."""
    layer = Layer(samples, Sample.kind)
    sizes = {PurePosixPath(e.key).name: tuple(e.facts["size"]) for row in layer.rows(split) for e in row.entries}
    if not sizes:
        raise ValueError(f"{samples} holds no split {split!r}")
    return cast(dict[str, tuple[int, int]], sizes)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a submission."""

    member: str
    """Name of the file in the zip."""
    kind: str
    """What sort of fault, the same words for all of a sort."""
    text: str
    """What is wrong and what is allowed."""

    def __str__(self) -> str:
        return f"{self.member}: {self.text}"


def tell_faults(faults: Iterable[Fault], *, examples: int = 5) -> Iterator[str]:
    """One line per fault, `examples` of each kind at most, then how many more there are: a zip may hold 20,000."""
    counts: Counter[str] = Counter()
    for fault in faults:
        counts[fault.kind] += 1
        if counts[fault.kind] <= examples:
            yield str(fault)
    for kind, count in counts.items():
        if count > examples:
            yield f"{count} files in all: {kind}"
    yield f"faults: {counts.total()}" if counts else "in order"


def check_submission(
    path: Path, *, num_classes: int, expected: dict[str, tuple[int, int]] | None = None
) -> Iterator[Fault]:
    """What is wrong with a submission; nothing where it is in order.

    `expected` maps each image's basename to its (H, W); without it only the form is checked. Members are read one by
    one. Raises ValueError where the file is not there or no zip at all, or where none of its images is expected.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable zip file: {error}") from error
    with archive:
        stems = {PurePosixPath(name).stem for name in archive.namelist()}
        if expected and not stems & expected.keys():
            raise ValueError(
                f"{path} holds {len(stems)} files and none of the {len(expected)} images expected; "
                "is it of another split?"
            )
        seen: set[str] = set()
        for info in archive.infolist():
            yield from _check_member(archive, info, seen, num_classes=num_classes, expected=expected)
        for stem in sorted(set(expected or {}) - seen):
            yield Fault(f"{stem}.png", "missing", "missing")


def _check_member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    seen: set[str],
    *,
    num_classes: int,
    expected: dict[str, tuple[int, int]] | None,
) -> Iterator[Fault]:
    name = PurePosixPath(info.filename)
    if len(name.parts) != 1 or name.suffix != ".png":
        yield Fault(info.filename, "no plain PNG", "the zip must hold <basename>.png files only, no folders")
        return
    if name.stem in seen:
        yield Fault(info.filename, "twice", "appears twice")
    seen.add(name.stem)
    try:
        data = archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield Fault(info.filename, "unreadable", f"cannot be read: {error}")
        return
    for kind, text in _check_png(data, num_classes, (expected or {}).get(name.stem)):
        yield Fault(info.filename, kind, text)
    if expected is not None and name.stem not in expected:
        yield Fault(info.filename, "not in the list", "no such image in the list")


def _check_png(data: bytes, num_classes: int, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """Kind and text of each fault."""
    try:
        mask = decode_index_png(data)
    except ValueError as error:
        yield "no mask", str(error)
        return
    if (mode := image_mode(data)) != "L":
        yield "mode", f"of mode {mode}; a palette is not allowed, write one grey channel of class ids"
    if size is not None and mask.shape != size:
        yield "size", f"is {mask.shape[1]}x{mask.shape[0]}, its image {size[1]}x{size[0]}"
    if (highest := int(mask.max(initial=0))) > num_classes:
        yield "class id too high", f"holds the value {highest}; allowed are 0..{num_classes}"
