"""A toy data set drawn in code: no file, no photograph, no download.

Every object is a body of one random colour that wears a small emblem, and the emblem alone tells the class. So a
classifier looks at emblems, its activation maps miss most of each body, and finding the rest takes the colour edges:
the situation that affinity and dense CRFs are made for. Classes are imbalanced, several stand in one image, and
`walker` stands beside most of the others, as *person* does in ILSVRC.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shards.images import encode_png
from shards.records import Sample
from shards.sources.source import Listed
from shards.taxonomy import Taxonomy

TOY = Taxonomy(("walker", "wheel", "crate", "fin", "bloom"))
SHARES = {"wheel": 0.4, "crate": 0.3, "fin": 0.2, "bloom": 0.1}
"""How often each class is the first object of an image; `walker` joins as company."""
WALKER_SHARE = 0.55
REVISION = 1
"""Raised whenever the drawing changes, so that old shards are not mistaken for new ones."""


@dataclass(frozen=True, kw_only=True)
class ToySource:
    """Drawn pictures: the same (seed, split, position) always gives the same picture."""

    counts: dict[str, int]
    """Split -> number of pictures."""
    seed: int
    size: int = 128
    """Mean side in pixels; sides vary by an eighth."""

    @property
    def taxonomy(self) -> Taxonomy:
        return TOY

    def list_split(self, split: str) -> list[Listed]:
        count = self.counts.get(split, 0)
        if count < 1:
            raise ValueError(f"split {split!r} of the toy data set has {count} pictures; it needs at least 1")
        return [Listed(key=f"{split}_{n:05d}", split=split, position=n) for n in range(count)]

    def read(self, listed: Listed) -> Sample:
        split_number = int.from_bytes(listed.split.encode(), "big") % 2**31
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence([self.seed, split_number, listed.position]))
        )
        image, mask = _draw(generator, mean_side=self.size)
        present = tuple(int(c) for c in np.unique(mask) if c != 0)
        return Sample(
            key=listed.key,
            encoded=encode_png(image),
            size=(image.shape[0], image.shape[1]),
            classes=present,
            mask=mask,
            position=listed.position,
            source=f"toy:{self.seed}:{listed.key}",
        )

    def signature(self) -> str:
        return hashlib.sha256(
            f"toy {REVISION} {self.seed} {self.size} {sorted(self.counts.items())}".encode()
        ).hexdigest()


def _draw(generator: np.random.Generator, *, mean_side: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture: u8[H, W, 3] and its mask u8[H, W]."""
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
    for name in names:
        _draw_object(generator, canvas, mask, name)
    canvas += generator.normal(0, 5, canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), mask


def _background(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A slanted gradient between two dull colours with soft waves on it, f64[H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    low, high = generator.uniform(70, 185, (2, 3))
    angle, phase = generator.uniform(0, 2 * np.pi, 2)
    ramp = (np.cos(angle) * rows / height + np.sin(angle) * columns / width + 1.5) / 3
    waves = 9 * np.sin(rows / generator.uniform(6, 16) + phase) * np.cos(columns / generator.uniform(6, 16))
    return low + (high - low) * ramp[..., None] + waves[..., None]


def _bright_colour(generator: np.random.Generator) -> np.ndarray:
    """A saturated colour, which no background has."""
    colour = generator.permutation([generator.uniform(0, 60), generator.uniform(0, 255), generator.uniform(195, 255)])
    return np.asarray(colour)


def _draw_clutter(generator: np.random.Generator, canvas: np.ndarray) -> None:
    """A thin stroke of a bright colour: an edge that bounds no object."""
    height, width, _ = canvas.shape
    rows, columns = np.mgrid[0:height, 0:width]
    row, column, angle = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(0, np.pi)
    along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    stroke = (np.abs(along) < generator.uniform(5, 20)) & (np.abs(across) < generator.uniform(0.8, 1.8))
    canvas[stroke] = _bright_colour(generator)


def _draw_object(generator: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, name: str) -> None:
    """A body of one colour with the class's emblem somewhere inside it."""
    height, width, _ = canvas.shape
    side = min(height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    long, short = side * generator.uniform(0.20, 0.30), side * generator.uniform(0.14, 0.20)
    row, column = generator.uniform(short, height - short), generator.uniform(short, width - short)
    angle, power = generator.uniform(0, np.pi), generator.choice([2.0, 2.0, 6.0])
    along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    body = np.abs(along / long) ** power + np.abs(across / short) ** power < 1
    canvas[body] = _bright_colour(generator)
    mask[body] = TOY.id_of(name)
    shift = generator.uniform(-0.45, 0.45) * long
    at_row, at_column = row + shift * np.sin(angle), column + shift * np.cos(angle)
    _draw_emblem(generator, canvas, body, name, (at_row, at_column), radius=side * generator.uniform(0.095, 0.115))


def _draw_emblem(
    generator: np.random.Generator,
    canvas: np.ndarray,
    body: np.ndarray,
    name: str,
    centre: tuple[float, float],
    *,
    radius: float,
) -> None:
    """The class's black-on-white sign, turned at random, clipped to the body."""
    rows, columns = np.mgrid[0 : canvas.shape[0], 0 : canvas.shape[1]]
    angle = generator.uniform(0, 2 * np.pi)
    y, x = (rows - centre[0]) / radius, (columns - centre[1]) / radius
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance, turn = np.hypot(u, v), np.arctan2(v, u)
    ink = {
        "walker": (np.abs(u) < 0.22) | (np.abs(v) < 0.22),  # a cross
        "wheel": np.abs(distance - 0.55) < 0.2,  # a ring
        "crate": (np.floor(u * 1.6) + np.floor(v * 1.6)) % 2 == 0,  # a chequer
        "fin": (np.abs(u) < 0.7) & (np.sin(9 * v) > 0),  # stripes
        "bloom": distance < 0.5 + 0.35 * np.cos(5 * turn),  # five petals
    }[name]
    sign = body & (distance < 1)
    canvas[sign & ink] = 15
    canvas[sign & ~ink] = 240
