"""`wsss shards info|lint|preview`: what a layer holds, whether it is sound, and what it looks like."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from shards.files import sha256_of
from shards.layer import INDEX, Layer, ShardError, split_of
from shards.reader import read_shard
from shards.records import BadSampleError, Sample
from shards.taxonomy import palette

PREVIEW_IMAGES, PREVIEW_COLUMNS, PREVIEW_TILE = 40, 8, 128


def open_layer(path: Path) -> Layer:
    """The complete layer in a folder. Raises `ShardError` where there is none."""
    try:
        kind = json.loads((path / INDEX).read_bytes())["record"]
    except (OSError, ValueError, TypeError, KeyError):
        raise ShardError(
            f"{path} holds no complete layer ({INDEX} is missing or damaged); name the folder of a finished layer"
        ) from None
    return Layer(path, kind)


def info(path: Path) -> Iterator[str]:
    """Lines: records, bytes and missing per split; for samples also images per class."""
    layer = open_layer(path)
    splits: dict[str, Counter[str]] = {}
    classes: Counter[int] = Counter()
    for row in layer.rows():
        counter = splits.setdefault(split_of(row.shard), Counter())
        counter.update(shards=1, records=row.count, num_bytes=row.num_bytes)
        left_out = sum(entry.left_out for entry in row.missing)
        counter.update(missing=len(row.missing) - left_out, left_out=left_out)
        counter.update(masks=sum(bool(entry.facts.get("has_mask")) for entry in row.entries))
        classes.update(c for entry in row.entries for c in entry.facts.get("classes", ()))
    yield f"{path}: {layer.kind} records"
    for split, counter in splits.items():
        masks = f", {counter['masks']} with a mask" if layer.kind == Sample.kind else ""
        masks += f", {counter['left_out']} left out" if counter["left_out"] else ""
        yield (
            f"{split}: {counter['records']} records in {counter['shards']} shards, "
            f"{counter['num_bytes'] / 1e6:.1f} MB, {counter['missing']} missing{masks}"
        )
    most = max(classes.values(), default=1)
    for class_id, count in sorted(classes.items()):
        yield f"class {class_id:3d}: {count:7d} {'#' * round(40 * count / most)}"


def lint(path: Path) -> Iterator[str]:
    """One line per fault: damaged tars, hashes that differ, records that do not decode. Nothing where all is sound."""
    layer = open_layer(path)
    for shard in layer.shards():
        try:
            row, tar = layer.row(shard), layer.tar_path(shard)
            if sha256_of(tar) != row.sha256:
                yield f"{tar}: its bytes are not the ones that were written; delete it and run its stage again"
                continue
            for record in read_shard(layer, shard):
                if isinstance(record, Sample):
                    yield from _lint_sample(shard, record)
        except (ShardError, ValueError) as error:
            yield str(error)


def _lint_sample(shard: str, sample: Sample) -> Iterator[str]:
    try:
        image = sample.image
    except BadSampleError as error:
        yield f"{shard}: {sample.key}: {error}"
        return
    if image.shape[:2] != sample.size:
        yield f"{shard}: {sample.key}: decodes to {image.shape[:2]}, its record says {sample.size}"
    if sample.mask is not None and sample.mask.shape != sample.size:
        yield f"{shard}: {sample.key}: its mask is {sample.mask.shape}, its image {sample.size}"
    if sample.saliency is not None and sample.saliency.shape != sample.size:
        yield f"{shard}: {sample.key}: its saliency map is {sample.saliency.shape}, its image {sample.size}"
    for box in sample.boxes or ():
        if not (0 <= box.top < box.bottom <= sample.size[0] and 0 <= box.left < box.right <= sample.size[1]):
            yield f"{shard}: {sample.key}: {box} does not lie in its image of {sample.size}"


def preview(path: Path) -> bytes:
    """A PNG of the first images of a samples layer, masks drawn over them where there are some."""
    layer = open_layer(path)
    if layer.kind != Sample.kind:
        raise ValueError(f"{path} holds {layer.kind} records; a preview is drawn of samples")
    tiles: list[Image.Image] = []
    for shard in layer.shards():
        for record in read_shard(layer, shard):
            if len(tiles) < PREVIEW_IMAGES and isinstance(record, Sample):
                tiles.append(_tile(record))
    rows = -(-len(tiles) // PREVIEW_COLUMNS)
    sheet = Image.new("RGB", (PREVIEW_COLUMNS * PREVIEW_TILE, max(rows, 1) * PREVIEW_TILE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % PREVIEW_COLUMNS * PREVIEW_TILE, number // PREVIEW_COLUMNS * PREVIEW_TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _tile(sample: Sample) -> Image.Image:
    image = sample.image
    if sample.mask is not None:
        tinted = (0.5 * image + 0.5 * palette()[sample.mask]).astype(np.uint8)
        image = np.where(sample.mask[..., None] == 0, image, tinted)
    tile = Image.fromarray(image)
    tile.thumbnail((PREVIEW_TILE, PREVIEW_TILE))
    return tile
