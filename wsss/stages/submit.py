"""submit: from predictions, results.zip in the format of the LID server."""

from __future__ import annotations

import json
import zipfile
from pathlib import PurePosixPath
from typing import ClassVar, cast

import numpy as np

from shards.files import replacing
from shards.images import encode_png
from shards.layer import INDEX, split_of
from shards.reader import read_shard
from shards.records import Prediction, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork, Storage
from wsss.contract.counts import Counts
from wsss.contract.settings import setting_values, settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""A fixed date, so that the same predictions give the same file."""


@settings
class Submit(Reduce):
    """Pack one split's predictions into a flat zip: one uint8 single-channel PNG per image, at its original size."""

    kind: ClassVar[str] = "submit"
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), "predictions": Records((Prediction,))}

    split: str = "val"
    """Split to submit."""

    def check(self, instance: Instance) -> None:
        predict, stage = instance.inputs["predictions"].name, instance.stage_in("predictions", Map)
        if self.split not in stage.splits:
            raise ValueError(
                f"{instance.name}.split = {self.split!r}, but {predict} predicts only {', '.join(stage.splits)}"
            )
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
        path, keys = instance.path / "results.zip", dict[str, str]()
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for shard in self.shards(instance):
                for record in read_shard(instance.inputs["predictions"].layer, shard):
                    name = f"{PurePosixPath(record.key).name}.png"
                    if name in keys:
                        raise ValueError(
                            f"{instance.name}: {keys[name]} and {record.key} would both be {name}; a submission has no "
                            "folders, so the images of a split need different file names"
                        )
                    keys[name] = record.key
                    archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), encode_png(cast(Prediction, record).mask))
        return Outcome(
            metrics={"images": float(counts.total("images"))},
            tables={"lineage": lineage_rows(instance)},
            artifacts={"results.zip": str(path)},
        )


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
