"""submit: from predictions, results.zip in the format of the LID server, or of ImageNet-S's.

`imagenet_s`: RGB PNGs at <wnid>/<name>.png with the class id R + 256 G, as the evaluator of ImageNet-S reads them, and
method.txt. Source: README.md of LUSSeg/ImageNet-S, commit b2312ba7.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, cast

import numpy as np

from shards.files import replacing
from shards.id_colours import MAX_CLASSES as MOST_IN_COLOURS
from shards.id_colours import id_colours
from shards.images import encode_png
from shards.label_type import BYTE
from shards.layer import INDEX, split_of
from shards.reader import read_shard
from shards.records import Prediction, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork, Storage
from wsss.contract.counts import Counts
from wsss.contract.settings import active_unless, active_with, setting_values, settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""A fixed date, so that the same predictions give the same file."""


@settings
class Submit(Reduce):
    """Pack one split's predictions into a zip: one PNG per image, at its original size."""

    kind: ClassVar[str] = "submit"
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), "predictions": Records((Prediction,))}

    split: str = "val"
    """Split to submit."""
    format: Annotated[Literal["lid", "imagenet_s"], active_unless("format", "lid")] = "lid"
    """`lid`: a flat zip of grey PNGs of 8 bits (up to 254 classes); `imagenet_s`: RGB PNGs in folders of classes, with
    the class id R + 256 G (up to 999 classes), and method.txt."""
    method: Annotated[str, active_with("format", "imagenet_s")] = ""
    """imagenet_s: the description of the method in method.txt; if empty, the fingerprint of the submission."""

    def check(self, instance: Instance) -> None:
        predict, stage = instance.inputs["predictions"].name, instance.stage_in("predictions", Map)
        if self.split not in stage.splits:
            raise ValueError(
                f"{instance.name}.split = {self.split!r}, but {predict} predicts only {', '.join(stage.splits)}"
            )
        most = BYTE.ignore - 1 if self.format == "lid" else MOST_IN_COLOURS
        if (num_classes := len(instance.taxonomy)) > most:
            other = f"; set {instance.name}.format = 'imagenet_s'" if num_classes <= MOST_IN_COLOURS else ""
            holds = f"{instance.name}.format = {self.format!r} holds at most {most} classes"
            raise ValueError(f"{holds}, but there are {num_classes}{other}")
        if stage.given_labels():
            raise ValueError(
                f"{instance.name}: {predict} uses the images' labels, which the challenge does not allow; name "
                "predictions with labels = 'none' as inputs.predictions"
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
            entry = layer.manifest_entry(shard)
            sums = {"images": entry.count, "missing": len(entry.missing)}
            return Counts(sums={name: np.array(value, dtype=np.int64) for name, value in sums.items()})

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        if missing := counts.total("missing"):
            raise ValueError(
                f"{instance.name}: {missing} predictions of split {self.split!r} are missing, but a submission needs "
                f"every image; the reasons are listed in {instance.inputs['predictions'].path / INDEX}"
            )
        path = instance.path / "results.zip"
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self._members(instance):
                archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), data)
        return Outcome(
            metrics={"images": float(counts.total("images"))},
            tables={"lineage": lineage_rows(instance)},
            artifacts={"results.zip": str(path)},
        )

    def _members(self, instance: Instance) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file of the zip."""
        keys = dict[str, str]()
        for shard in self.shards(instance):
            for record in read_shard(instance.inputs["predictions"].layer, shard):
                mask = cast(Prediction, record).mask
                if self.format == "imagenet_s":
                    yield f"{record.key}.png", encode_png(id_colours(mask))
                    continue
                name = f"{PurePosixPath(record.key).name}.png"
                if name in keys:
                    raise ValueError(
                        f"{instance.name}: {keys[name]} and {record.key} would both be {name}; a submission has no "
                        "folders, so the images of a split need different file names"
                    )
                keys[name] = record.key
                yield name, encode_png(mask)
        if self.format == "imagenet_s":
            yield "method.txt", f"{self.method or f'wsss, settings {instance.fingerprint}'}\n".encode()


def lineage_rows(instance: Instance) -> list[dict[str, object]]:
    """All settings that led to a result: one row per setting of the instance and of all instances it depends on.

    The fingerprint of a row's instance identifies its checkpoint or layer; values that are not strings are JSON.
    """
    rows: list[dict[str, object]] = []
    for name, one in sorted(_behind(instance).items()):
        inputs = {f"inputs.{slot}": upstream.name for slot, upstream in one.inputs.items()}
        for setting, value in (setting_values(one.stage) | inputs).items():
            text = value if isinstance(value, str) else json.dumps(value)
            source: dict[str, object] = {"instance": name, "kind": one.stage.kind, "fingerprint": one.fingerprint}
            rows.append(source | {"setting": f"{name}.{setting}", "value": text})
    return rows


def _behind(instance: Instance) -> dict[str, Instance]:
    found = {instance.name: instance}
    for upstream in instance.inputs.values():
        found |= _behind(upstream)
    return found
