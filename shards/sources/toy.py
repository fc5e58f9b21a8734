"""A toy data set drawn in code: no files, no photographs, no download.

Colour carries no information: both the background and every object are a patchwork of colours. Only a fine texture
separates an object from the background and shows its class; it is strong at one end of the object and faint at the
other. So a classifier's activation maps cover only the strong end, a dense CRF alone follows colour edges that mean
nothing, and finding the rest of the object requires learnt boundaries, as in photographs. Classes are imbalanced, an
image can show several, and `walker` co-occurs with most others, as *person* does in ILSVRC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shards.images import encode_png
from shards.records import Box, Sample
from shards.sources.source import Listed
from shards.taxonomy import Taxonomy

TOY = Taxonomy(("walker", "wheel", "crate", "fin", "bloom"))
SHARES = {"wheel": 0.4, "crate": 0.3, "fin": 0.2, "bloom": 0.1}
"""Probability of each class to be the first object of an image; `walker` is only added to it."""
WALKER_SHARE = 0.55
_INK: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "walker": lambda u, v: np.sin(u) > 0,  # stripes
    "wheel": lambda u, v: np.sin(np.hypot(u, v) / 1.2) > 0,  # rings around the centre
    "crate": lambda u, v: np.sin(u / 1.5) * np.sin(v / 1.5) > 0,  # chequers
    "fin": lambda u, v: np.sin(u + 3 * np.abs((v / 3) % 2 - 1)) > 0,  # zigzags
    "bloom": lambda u, v: np.sin(u / 1.3) + np.sin(v / 1.3) > 0.8,  # dots
}
REVISION = 3
"""Raised whenever the drawing changes, so that old shards are not mistaken for new ones."""


@dataclass(frozen=True, kw_only=True)
class ToySource:
    """Drawn images: the same (seed, split, position) always gives the same image."""

    counts: dict[str, int]
    """Split -> number of images."""
    seed: int
    size: int = 128
    """Mean side in pixels; sides vary by up to an eighth."""

    @property
    def taxonomy(self) -> Taxonomy:
        return TOY

    def list_split(self, split: str) -> list[Listed]:
        count = self.counts.get(split, 0)
        if count < 1:
            raise ValueError(f"split {split!r} of the toy data set has {count} images; it needs at least 1")
        return [Listed(key=f"{split}_{n:05d}", split=split, position=n) for n in range(count)]

    def image_bytes(self, split: str) -> None:
        """None: the images are not files."""
        return None

    def read(self, listed: Listed) -> Sample:
        split_number = int.from_bytes(listed.split.encode(), "big") % 2**31
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([self.seed, split_number, listed.position]))
        )
        image, mask, boxes = _draw(generator, mean_side=self.size)
        present = tuple(int(c) for c in np.unique(mask) if c != 0)
        return Sample(
            key=listed.key,
            encoded=encode_png(image),
            size=(image.shape[0], image.shape[1]),
            classes=present,
            mask=mask,
            boxes=boxes,
            position=listed.position,
            source=f"toy:{self.seed}:{listed.key}",
        )

    def signature(self, *, masks: bool = True) -> str:
        return hashlib.sha256(
            f"toy {REVISION} {self.seed} {self.size} {sorted(self.counts.items())}".encode()
        ).hexdigest()


def _draw(generator: np.random.Generator, *, mean_side: int) -> tuple[np.ndarray, np.ndarray, tuple[Box, ...]]:
    """One image: u8[H, W, 3], its mask u8[H, W], and the boxes of the visible parts of its objects."""
    spread = mean_side // 8
    height, width = (int(generator.integers(mean_side - spread, mean_side + spread + 1)) for _ in range(2))
    canvas = _background(generator, height, width)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(generator.integers(3, 8))):
        _draw_clutter(generator, canvas)
    first = str(generator.choice(list(SHARES), p=list(SHARES.values())))
    names = [first]
    if generator.random() < WALKER_SHARE:
        names.append("walker")
    if generator.random() < 0.35:
        names.append(str(generator.choice(list(SHARES), p=list(SHARES.values()))))
    objects = np.zeros((height, width), dtype=np.int64)
    for number, name in enumerate(names, start=1):
        body = _draw_object(generator, canvas, name)
        mask[body], objects[body] = TOY.id_of(name), number
    canvas += generator.normal(0, 12, canvas.shape)
    boxes = _boxes(objects, [TOY.id_of(name) for name in names])
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), mask, boxes


def _boxes(objects: np.ndarray, classes: list[int]) -> tuple[Box, ...]:
    """The box of every object 1, 2, ... of i64[H, W] that is not completely covered."""
    from scipy import ndimage

    found = zip(classes, ndimage.find_objects(objects), strict=False)
    return tuple(Box(c, at[0].start, at[1].start, at[0].stop, at[1].stop) for c, at in found if at is not None)


def _patchwork(
    generator: np.random.Generator, height: int, width: int, *, num_patches: int, spread: float
) -> np.ndarray:
    """Patches of uniform colour, the Voronoi cells of random points; f64[H, W, 3]."""
    points_P2 = generator.uniform(0, 1, (num_patches, 2)) * (height, width)
    rows_PH1 = (np.arange(height) - points_P2[:, :1])[:, :, None]
    columns_P1W = (np.arange(width) - points_P2[:, 1:])[:, None]
    middle = generator.uniform(80, 175, 3)
    colours_P3 = middle + generator.uniform(-spread, spread, (num_patches, 3))
    patches: np.ndarray = colours_P3[(rows_PH1**2 + columns_P1W**2).argmin(0)]
    return patches


def _background(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A patchwork with smooth waves added, f64[H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    phase = generator.uniform(0, 2 * np.pi)
    waves = 9 * np.sin(rows / generator.uniform(6, 16) + phase) * np.cos(columns / generator.uniform(6, 16))
    return _patchwork(generator, height, width, num_patches=5, spread=50) + waves[..., None]


def _draw_clutter(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """A thin stroke of random colour: an edge that is not an object boundary."""
    height, width, _ = canvas.shape
    rows, columns = np.mgrid[0:height, 0:width]
    row, column, angle = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(0, np.pi)
    along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    stroke = (np.abs(along) < generator.uniform(5, 20)) & (np.abs(across) < generator.uniform(0.8, 1.8))
    canvas[stroke] = generator.uniform(20, 235, 3)


def _draw_object(generator: np.random.Generator, canvas: np.ndarray, name: str) -> np.ndarray:
    """Draw a patchwork object with its class's texture, which fades along it; returns its pixels, bool[H, W]."""
    height, width, _ = canvas.shape
    side = min(height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    long, short = side * generator.uniform(0.24, 0.36), side * generator.uniform(0.16, 0.22)
    row, column = generator.uniform(short, height - short), generator.uniform(short, width - short)
    angle, power = generator.uniform(0, 2 * np.pi), generator.choice([2.0, 2.0, 6.0])
    along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    body = np.abs(along / long) ** power + np.abs(across / short) ** power < 1
    strength = np.clip(48 + 27 * along / long, 20, 75)
    colours = _patchwork(generator, height, width, num_patches=12, spread=50)
    canvas[body] = (colours + (strength * _texture(name, along, across, generator))[..., None])[body]
    return body


def _texture(name: str, along: np.ndarray, across: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The class's pattern of -1 and 1, rotated at random, f64[H, W]."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(5.5, 7)
    u = (along * np.cos(angle) + across * np.sin(angle)) * 2 * np.pi / period
    v = (across * np.cos(angle) - along * np.sin(angle)) * 2 * np.pi / period
    return np.where(_INK[name](u, v), 1.0, -1.0)
