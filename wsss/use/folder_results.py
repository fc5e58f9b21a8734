"""The results of work on a folder of pictures, in OUT:

| file | content |
|---|---|
| `masks/KEY.png` | class ids as a grey PNG of the upright picture's size; KEY is its path without extension |
| `overlays/KEY.png` | the picture in grey under the classes' colours, if asked for |
| `pictures.csv` | every picture: its mask, size and classes, largest first, or why it could not be read |
| `classes.csv` | id, name and colour of every class |
| `coco.json` | the masks as COCO annotations, if asked for: one run-length mask per picture and class |
| `summary.json` | the model, the settings and counts; written last, so that a folder with it is complete |

Everything is written from the finished layers, so a folder is written again with the same bytes after a stop.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from shards.files import write_bytes
from shards.images import decode_image, decode_label_png, encode_png
from shards.label_type import label_type
from shards.reader import read_shard
from shards.records import Prediction, PseudoLabel, Sample
from shards.taxonomy import Taxonomy, colour_of
from wsss.contract.stopping import raise_if_stopped
from wsss.pictures.sheets import overlay
from wsss.use.folder_chain import FolderChain, work_folder

MASKS, OVERLAYS, SUMMARY, PICTURES, BEGUN = "masks", "overlays", "summary.json", "pictures.csv", "begun.json"
_COLUMNS = ("image", "mask", "height", "width", "classes", "error")


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """What was done with a folder."""

    command: str
    models: Mapping[str, Mapping[str, Any]]
    """Name -> kind, fingerprint and SHA-256 of its file."""
    settings: Mapping[str, Any]
    fingerprint: str
    """Of pictures, models and settings together."""
    masks: int
    """Masks that were written."""
    unreadable: int
    """Pictures without a mask; pictures.csv has the reasons."""
    left_out: int = 0
    """Pictures that the settings excluded."""
    others: int = 0
    """Files that are not pictures."""

    def to_bytes(self) -> bytes:
        return json.dumps(self.__dict__, indent=1, sort_keys=True).encode()


def kept_summary(out: Path) -> dict[str, Any] | None:
    """The summary of a folder that is complete, else None."""
    return _read(out / SUMMARY)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def refuse_other_results(out: Path, *, models: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError if OUT holds the results of another model or of other settings: they would be mixed."""
    finished = kept_summary(out)
    before = finished or _read(work_folder(out) / BEGUN)
    if before is None:
        if out.is_dir() and any(path != work_folder(out) for path in out.iterdir()):
            raise ValueError(f"OUT = {out} is not empty and has no {SUMMARY} of this command; name a new folder")
        return
    asked = json.loads(json.dumps({"models": models, "settings": settings}))
    for name, value in asked.items():
        if before.get(name) != value:
            what = f"the results of other {name} ({SUMMARY})"
            if finished is None:
                what = f"unfinished work with other {name} ({work_folder(out).name}/{BEGUN})"
            raise ValueError(f"OUT = {out} holds {what}; name another folder, or delete this one")


@contextmanager
def begun(out: Path, *, models: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[None]:
    """Make OUT, and note what is worked on there, in case it is stopped. If the block refuses the settings, the note
    goes: nothing was done with them."""
    refuse_other_results(out, models=models, settings=settings)
    path = work_folder(out) / BEGUN
    was_there = path.exists()
    note = json.dumps({"models": models, "settings": settings}, indent=1, sort_keys=True).encode()
    write_bytes(path, note, what="a note on the work in this folder")
    try:
        yield
    except ValueError:
        if not was_there:
            path.unlink(missing_ok=True)
        raise


def is_finished(out: Path, *, fingerprint: str) -> bool:
    """True if the same pictures, model and settings have been worked on and every mask is still there."""
    before = kept_summary(out)
    if before is None or before.get("fingerprint") != fingerprint:
        return False
    return sum(1 for _ in (out / MASKS).rglob("*.png")) == before.get("masks")


def rows_with_masks(out: Path) -> list[dict[str, str]]:
    """The rows of pictures.csv that name a mask."""
    with (out / PICTURES).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["mask"]]


def draw_overlays(out: Path, root: Path) -> None:
    """Draw the overlays that are missing, from the masks of a finished folder and its pictures."""
    for row in rows_with_masks(out):
        raise_if_stopped()
        path = out / OVERLAYS / Path(row["mask"]).relative_to(MASKS)
        if not path.exists():
            mask = decode_label_png((out / row["mask"]).read_bytes())
            write_bytes(path, encode_png(overlay(decode_image((root / row["image"]).read_bytes()), mask)))


def write_results(
    chain: FolderChain,
    out: Path,
    *,
    taxonomy: Taxonomy,
    overlays: bool,
    names: Mapping[str, str],
    refused: Mapping[str, str],
) -> tuple[int, int, int]:
    """Write masks, overlays and tables; returns the numbers of masks, of unreadable pictures and of those left out.

    `names`: key -> path of the picture; `refused`: path -> why the picture was not even read.
    """
    if (out / SUMMARY).exists():  # of other pictures: their masks would remain among the new ones
        (out / SUMMARY).unlink()
        for folder in (MASKS, OVERLAYS):
            shutil.rmtree(out / folder, ignore_errors=True)
    rows: dict[str, dict[str, object]] = {
        name: {"image": name, "error": reason} for name, reason in sorted(refused.items())
    }
    masks = 0
    for sample, mask in _masks(chain):
        raise_if_stopped()
        write_bytes(out / MASKS / f"{sample.key}.png", encode_png(mask))
        if overlays:
            write_bytes(out / OVERLAYS / f"{sample.key}.png", encode_png(overlay(sample.image, mask)))
        masks += 1
        rows[sample.source] = {
            "image": sample.source,
            "mask": f"{MASKS}/{sample.key}.png",
            "height": mask.shape[0],
            "width": mask.shape[1],
            "classes": "|".join(_classes(mask, taxonomy)),
        }
    unreadable, left_out = _without_masks(chain)
    for key, reason in (unreadable | left_out).items():
        rows[names[key]] = {"image": names[key], "error": reason}
    write_bytes(out / PICTURES, _table(_COLUMNS, [rows[name] for name in sorted(rows)]))
    write_bytes(out / "classes.csv", _table(("id", "name", "red", "green", "blue"), _class_rows(taxonomy)))
    return masks, len(unreadable) + len(refused), len(left_out)


def finish(out: Path, summary: FolderSummary) -> None:
    """Mark the folder as complete, and remove the work that led to it."""
    write_bytes(out / SUMMARY, summary.to_bytes())
    shutil.rmtree(work_folder(out), ignore_errors=True)


def _masks(chain: FolderChain) -> Iterator[tuple[Sample, np.ndarray]]:
    """Every picture that has a mask, with its mask."""
    for shard in chain.masks.layer.shards():
        made = {record.key: cast("Prediction | PseudoLabel", record) for record in read_shard(chain.masks.layer, shard)}
        for sample in read_shard(chain.samples.layer, shard):
            if (record := made.get(sample.key)) is not None:
                yield cast(Sample, sample), record.mask


def _without_masks(chain: FolderChain) -> tuple[dict[str, str], dict[str, str]]:
    """Key -> reason, of the pictures that could not be used, and of those that the settings left out."""
    unreadable: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for instance in chain.instances:
        unreadable |= {one.key: one.reason for one in instance.layer.missing() if one.key not in unreadable}
        for reasons in instance.layer.left_out().values():
            left_out |= reasons
    return unreadable, {key: reason for key, reason in left_out.items() if key not in unreadable}


def _classes(mask: np.ndarray, taxonomy: Taxonomy) -> list[str]:
    """Names of the foreground classes in a mask, largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(taxonomy) + 1)[1 : len(taxonomy) + 1]
    order = sorted(np.flatnonzero(counts), key=lambda index: (-counts[index], index))
    return [taxonomy.names[index] for index in order]


def _class_rows(taxonomy: Taxonomy) -> list[dict[str, object]]:
    ignored = label_type(len(taxonomy)).ignore
    names = {0: "background", **dict(enumerate(taxonomy.names, start=1)), ignored: "undecided"}
    rows: list[dict[str, object]] = []
    for class_id, name in names.items():
        red, green, blue = colour_of(class_id)
        rows.append({"id": class_id, "name": name, "red": red, "green": green, "blue": blue})
    return rows


def _table(columns: tuple[str, ...], rows: list[dict[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
