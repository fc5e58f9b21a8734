"""`wsss explain`: one image through every stage of a recipe, as one PNG."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.files import write_bytes
from shards.images import encode_png
from shards.layer import Layer, ShardError
from shards.output_places import check_output_file
from shards.reader import read_entry
from shards.records import BadSampleError, Record, Sample
from wsss.contract.folds import for_shard
from wsss.contract.stage import Instance, Map
from wsss.pipeline.recipe import Recipe
from wsss.report.explained_stages import Explained, Step, steps_of

TILE, GAP, PER_ROW = 220, 12, 6
"""Longer side of a picture, space between pictures, and pictures in a row."""
_LINE, _TITLE = 16, 22
"""Heights of a line of text and of a title, in pixels."""
_CAPTION_CHARS, _WIDE_CHARS = 34, 215
_NUMBER = re.compile(r"[0-9]+")


class ExplainError(ValueError):
    """The image cannot be explained; the message says why and what to do."""


def explain(recipe: Recipe, key: str, path: Path) -> list[str]:
    """Draw the image into a PNG at `path`; returns lines about stages that are not in it.

    Raises `ExplainError`, and ValueError for a path of another ending or where nothing can be written.
    """
    check_output_file(path, option="--output", endings=(".png",))
    finished = [one for one in recipe.instances if isinstance(one.stage, Map) and one.is_done()]
    waiting = [one.name for one in recipe.instances if isinstance(one.stage, Map) and one not in finished]
    notes = [f"not done yet: {', '.join(waiting)}; wsss run makes them"] if waiting else []
    records: dict[str, Record] = {}
    shards: dict[str, str] = {}
    for instance in finished:
        found = find_record(instance.layer, key)
        if isinstance(found, str):
            notes.append(f"{instance.name} has no record of it: {found}")
        else:
            shards[instance.name], records[instance.name] = found
    sample = next((record for record in records.values() if isinstance(record, Sample)), None)
    if sample is None:
        raise ExplainError(_unknown_key(recipe, finished, key))
    try:
        image = sample.image
    except BadSampleError as error:
        raise ExplainError(f"the image {key!r} cannot be drawn: {error}") from error
    taxonomy = recipe.instances[0].taxonomy
    about = Explained(sample=sample, image=image, name_of=taxonomy.name_of, records=records)
    steps = [
        steps_of(for_shard(instance, shards[instance.name]), about) for instance in finished if instance.name in records
    ]
    write_bytes(path, draw_steps(steps, title=f"{recipe.settings.name}: {key}"))
    return notes


def find_record(layer: Layer, key: str) -> tuple[str, Record] | str:
    """The shard and the record of a key, or why the layer has none."""
    reason = "its split is not processed"
    for shard in layer.shards():
        manifest = layer.manifest_entry(shard)
        if key in manifest.entries.keys:
            return shard, read_entry(layer, shard, manifest.entries[manifest.entries.keys.index(key)])
        reason = next((one.reason for one in manifest.missing if one.key == key), reason)
    return reason


def _unknown_key(recipe: Recipe, finished: Sequence[Instance], key: str) -> str:
    samples = [one for one in finished if one.layer.kind == Sample.kind]
    if not samples:
        return f"the samples of {recipe.settings.name} are not built yet; wsss run {recipe.path} builds them"
    keys = [known for one in samples for known in _keys(one.layer)]
    near = _near(key, keys)
    return f"there is no image {key!r} among the {len(keys)} of {samples[0].name}; did you mean {', '.join(near)}?"


def _near(key: str, keys: Sequence[str]) -> list[str]:
    """Keys that may be meant: those that differ from it in numbers only, the nearest first; else similar ones."""
    alike = [known for known in keys if _NUMBER.sub("0", known) == _NUMBER.sub("0", key)]
    if alike:
        wanted = [int(number) for number in _NUMBER.findall(key)]
        distance = {
            known: [abs(int(one) - other) for one, other in zip(_NUMBER.findall(known), wanted, strict=True)]
            for known in alike
        }
        return sorted(alike, key=lambda known: (distance[known], known))[:3]
    return difflib.get_close_matches(key, keys, n=3) or list(keys[:3])


def _keys(layer: Layer) -> Iterator[str]:
    try:
        for manifest in layer.manifest_entries():
            yield from manifest.entries.keys
    except ShardError:
        return


def draw_steps(steps: Sequence[Step], *, title: str) -> bytes:
    """A PNG: for every step its title, its values, and its pictures with captions."""
    strips = [_heading(title)] + [_step(step) for step in steps]
    return encode_png(np.concatenate(strips))


_WIDTH = PER_ROW * (TILE + GAP) + GAP


def _canvas(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (_WIDTH, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _plain(text: str) -> str:
    """The font has only ASCII."""
    return text.encode("ascii", "replace").decode()


def _heading(title: str) -> np.ndarray:
    sheet, draw = _canvas(_TITLE + 2 * GAP)
    draw.text((GAP, GAP), _plain(title), fill="black", font=_font(18))
    return np.asarray(sheet)


def _step(step: Step) -> np.ndarray:
    values = textwrap.wrap(_plain(step.values), _WIDE_CHARS)
    captions = [textwrap.wrap(_plain(one.caption), _CAPTION_CHARS) for one in step.pictures]
    tiles = [_tile(one.pixels) for one in step.pictures]
    rows = [range(start, min(start + PER_ROW, len(tiles))) for start in range(0, len(tiles), PER_ROW)]
    heights = [max(tiles[i].height for i in row) + _LINE * max(len(captions[i]) for i in row) + GAP + 4 for row in rows]
    head = GAP + _TITLE + _LINE * len(values) + 4
    sheet, draw = _canvas(head + sum(heights))
    draw.line((GAP, 2, _WIDTH - GAP, 2), fill="#999999")
    draw.text((GAP, GAP), _plain(step.title), fill="black", font=_font(15))
    for number, line in enumerate(values):
        draw.text((GAP, GAP + _TITLE + _LINE * number), line, fill="#444444", font=_font(12))
    top = head
    for row, height in zip(rows, heights, strict=True):
        tallest = max(tiles[i].height for i in row)
        for column, place in enumerate(row):
            left = GAP + column * (TILE + GAP)
            sheet.paste(tiles[place], (left, top))
            for number, line in enumerate(captions[place]):
                draw.text((left, top + tallest + 3 + _LINE * number), line, fill="black", font=_font(12))
        top += height
    return np.asarray(sheet)


def _tile(pixels: np.ndarray) -> Image.Image:
    """The picture with its longer side at `TILE`; small ones are enlarged."""
    height, width = pixels.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return Image.fromarray(pixels).resize(size, how)
