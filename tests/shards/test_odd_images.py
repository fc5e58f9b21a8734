"""Every row of the table in `shards.images`: an odd image on its way through build_shards, between two plain ones."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards import images
from shards.layer import Layer
from shards.reader import read_shard
from shards.records import Sample
from shards.writer import write_shard
from tests.shards.png_by_hand import chunk, png
from tests.shards.sources.pictures import jpeg, put
from tests.wsss.layers import instance_of
from wsss.stages.build_shards import BuildShards

SMOOTH = np.add.outer(np.arange(23) * 5, np.arange(37) * 3).astype(np.uint8)
"""Grey, 23 x 37; smooth, so that a JPEG of it is within a few levels."""
COLOURS = np.stack([SMOOTH, 255 - SMOOTH, SMOOTH // 2 + 30], axis=2)
WHITE_16 = SMOOTH.astype(np.uint16) * 257
Expected = np.ndarray | str
"""What it decodes to, or how its reason begins."""


def saved(
    array: np.ndarray, format: str, *, mode: str | None = None, turned: int | None = None, **options: object
) -> bytes:
    image, buffer = Image.fromarray(array), io.BytesIO()
    if turned is not None:
        exif = Image.Exif()
        exif[0x0112] = turned
        options["exif"] = exif
    if format == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    (image.convert(mode) if mode else image).save(buffer, format=format, **options)
    return buffer.getvalue()


def deep_colours() -> bytes:
    """16 bits per channel; the lower eight are noise."""
    noise = np.random.default_rng(0).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    rows = np.stack([COLOURS, noise], axis=3).reshape(23, -1)
    return png(23, 37, b"".join(b"\0" + row.tobytes() for row in rows), depth=16, colour=2)


def palette_with_alpha() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(COLOURS).quantize(16)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=bytes([0, 128] * 8))
    return buffer.getvalue(), np.asarray(image.convert("RGB"))


def several(format: str, **options: object) -> bytes:
    return saved(COLOURS, format, save_all=True, append_images=[Image.fromarray(COLOURS[::-1].copy())], **options)


def shown(turned: int) -> np.ndarray:
    """COLOURS as EXIF's orientation shows it, by its definition: where the stored row 0 and column 0 come to lie."""
    flips: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    return flips.get(turned, flips[1])(COLOURS)


GREY = np.repeat(SMOOTH[..., None], 3, axis=2)
ALPHA = np.full((23, 37, 1), 7, np.uint8)
JPEG = saved(COLOURS, "JPEG")
CASES: dict[str, tuple[bytes, Expected]] = {
    "plain": (JPEG, COLOURS),
    "progressive": (saved(COLOURS, "JPEG", progressive=True), COLOURS),
    "png_named_jpg": (saved(COLOURS, "PNG"), COLOURS),
    "webp_named_jpg": (saved(COLOURS, "WEBP", lossless=True), COLOURS),
    "bmp_named_jpg": (saved(COLOURS, "BMP"), COLOURS),
    "jpeg_2000": (saved(COLOURS, "JPEG2000"), COLOURS),
    "grey": (saved(SMOOTH, "JPEG"), GREY),
    "grey_alpha": (saved(np.concatenate([SMOOTH[..., None], ALPHA], axis=2), "PNG"), GREY),
    "one_bit": (saved((SMOOTH > 99) * np.uint8(255), "PNG", mode="1"), (GREY > 99) * np.uint8(255)),
    "rgba": (saved(np.concatenate([COLOURS, ALPHA], axis=2), "PNG"), COLOURS),
    "palette_alpha": palette_with_alpha(),
    "transparent_colour": (saved(COLOURS, "PNG", transparency=(0, 255, 30)), COLOURS),
    "cmyk": (saved(COLOURS, "JPEG", mode="CMYK"), COLOURS),
    "cmyk_tiff": (saved(COLOURS, "TIFF", mode="CMYK"), COLOURS),
    "grey_16_png": (saved(WHITE_16, "PNG"), GREY),
    "grey_16_tiff": (saved(WHITE_16, "TIFF"), GREY),
    "colours_16_png": (deep_colours(), COLOURS),
    "whole_32_tiff": (saved(WHITE_16.astype(np.int32), "TIFF"), "the image does not decode: a TIFF of mode I, 32 bits"),
    "float_tiff": (saved(SMOOTH / np.float32(255), "TIFF"), "the image does not decode: a TIFF of mode F, 32 bits"),
    "pgm_16": (b"P5 2 1 65535\n\1\2\3\4", "the image does not decode: a PPM of mode I, 32 bits per pixel"),
    **{f"exif_{turned}": (saved(COLOURS, "JPEG", turned=turned), shown(turned)) for turned in range(10)},
    **{f"tiff_exif_{turned}": (saved(COLOURS, "TIFF", turned=turned), shown(turned)) for turned in range(1, 9)},
    "png_exif_6": (saved(COLOURS, "PNG", turned=6), shown(6)),
    "webp_exif_8": (saved(COLOURS, "WEBP", turned=8, lossless=True), shown(8)),
    "mpo": (several("MPO", quality=95, subsampling=0), COLOURS),
    "animated_gif": (several("GIF"), COLOURS),
    "animated_png": (several("PNG"), COLOURS),
    "animated_webp": (several("WEBP", lossless=True), COLOURS),
    "pages_of_tiff": (several("TIFF"), COLOURS),
    "longest_side": (saved(np.full((1, 65_500), 77, np.uint8), "JPEG"), np.full((1, 65_500, 3), 77, np.uint8)),
    "bomb": (png(10_001, 10_000, b"\0"), "10000 x 10001 pixels, but at most 100000000 are allowed"),
    "bomb_for_pil_too": (
        png(60_000, 60_000, b"\0"),
        "not a readable image: Image size (3600000000 pixels)",
    ),
    "text_bomb": (
        png(1, 1, b"\0\0", more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000)))),
        "not a readable image: Decompressed data too large",
    ),
    "zero_bytes": (b"", "the file is empty"),
    "cut_in_the_header": (JPEG[:50], "not a readable image"),
    "cut_in_the_pixels": (JPEG[: len(JPEG) * 3 // 4], "the image does not decode: image file is truncated"),
    "progressive_cut": (
        saved(COLOURS, "JPEG", progressive=True)[:-90],
        "the image does not decode: image file is",
    ),
    "png_cut": (saved(COLOURS, "PNG")[:-60], "the image does not decode"),
    "web_page": (b"<!DOCTYPE html><title>404</title>", "not a readable image: unknown format"),
    "postscript": (saved(COLOURS, "EPS"), "not a readable image: unknown format"),
    "icon": (saved(COLOURS, "ICO", sizes=[(16, 16)]), "not a readable image: unknown format"),
}


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", list(CASES))
def test_odd_image_is_decoded_or_recorded(tmp_path: Path, case: str) -> None:
    data, expected = CASES[case]
    for name, content in (("a", jpeg(9, 9, seed=1)), ("odd", data), ("z", jpeg(9, 9, seed=2))):
        put(tmp_path / "f" / f"{name}.jpg", content)
    put(tmp_path / "f" / "t.csv", "image,labels\na.jpg,cat\nodd.jpg,cat\nz.jpg,dog\n")
    stage = BuildShards(source="folder", root=str(tmp_path / "f"), lists={"train": "t.csv"}, splits=("train",))
    layer = Layer(tmp_path / "samples", "sample")
    (shard,) = stage.shards(instance_of(stage, tmp_path))
    write_shard(layer, shard, stage.worker(instance_of(stage, tmp_path))(shard))
    layer.complete([shard])

    records = {record.key: record for record in read_shard(layer, shard)}
    assert [key for key in records if key != "odd"] == ["a", "z"], "its neighbours are as they were"
    missing = {one.key: one.reason for one in layer.missing()}
    if isinstance(expected, str):
        assert "odd" not in records and missing["odd"].startswith(f"odd.jpg: {expected}"), missing
        assert layer.counts() == {"train": 2, "missing": 1}
        return
    odd = records["odd"]
    assert isinstance(odd, Sample) and missing == {}
    assert odd.encoded == data, "its bytes are copied"
    assert odd.size == expected.shape[:2] == odd.image.shape[:2]
    assert np.abs(odd.image.astype(int) - expected).max() <= (12 if "gif" in case else 6)


def test_a_large_image_is_no_warning() -> None:
    """PIL's own limit lies below ours: it would warn of images that are in order."""
    assert Image.MAX_IMAGE_PIXELS == images.MAX_PIXELS
