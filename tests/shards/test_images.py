from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from shards import images
from shards.images import (
    decode_colour_png,
    decode_grey_png,
    decode_image,
    decode_index_png,
    decode_u16_png,
    encode_jpeg,
    encode_png,
    image_metadata,
    image_mode,
)
from tests.shards.png_by_hand import chunk, png


def as_file(array: np.ndarray, *, mode: str | None = None, format: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def test_colours_stay(picture: np.ndarray) -> None:
    decoded = decode_image(encode_png(picture))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, picture)


def test_grey_becomes_three_equal_channels(picture: np.ndarray) -> None:
    decoded = decode_image(as_file(picture[..., 0]))
    np.testing.assert_array_equal(decoded, np.repeat(picture[..., :1], 3, axis=2))


def test_alpha_is_left_out(picture: np.ndarray) -> None:
    rgba = np.concatenate([picture, np.full((7, 11, 1), 128, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode_image(as_file(rgba)), picture)


def test_cmyk_becomes_rgb() -> None:
    red = np.zeros((8, 16, 3), np.uint8)
    red[..., 0] = 255
    decoded = decode_image(as_file(red, mode="CMYK", format="JPEG", quality=95))
    assert decoded.shape == (8, 16, 3)
    assert np.abs(decoded.astype(int) - red).max() < 8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_image(as_file(deep))[..., 1], [[0, 0, 1], [128, 254, 255]])


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(picture: np.ndarray, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(as_file(picture, exif=exif)), np.rot90(picture, turns))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_cut_short(picture: np.ndarray, format: str) -> None:
    data = as_file(picture, format=format)
    for length in (1, 9, len(data) // 2, len(data) * 4 // 5):
        with pytest.raises(ValueError, match=r"not a readable image|does not decode"):
            decode_image(data[:length])


def test_reasons_are_the_same_in_every_run() -> None:
    for decoder in (decode_image, decode_index_png):
        with pytest.raises(ValueError, match=r"^not a readable image: unknown format$"):
            decoder(b"nothing")


def test_no_bytes_and_no_image() -> None:
    for decoder in (decode_image, decode_index_png, image_mode):
        with pytest.raises(ValueError, match="the file is empty"):
            decoder(b"")
        with pytest.raises(ValueError, match="not a readable image"):
            decoder(b"<html>404</html>")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_never_raise_anything_else(picture: np.ndarray) -> None:
    random = np.random.default_rng(1)
    for format in ("PNG", "JPEG", "BMP", "GIF"):
        data = as_file(picture, format=format)
        for _ in range(100):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                damaged[place] = random.integers(0, 256)
            for decoder in (decode_image, decode_index_png):
                try:
                    decoder(bytes(damaged))
                except ValueError as error:
                    assert str(error)


def test_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch, picture: np.ndarray) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 7 * 11)
    assert decode_image(encode_png(picture)).shape == (7, 11, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 7 * 11 - 1)
    with pytest.raises(ValueError, match="11 x 7 pixels, but at most 76 are allowed"):
        decode_image(encode_png(picture))


def test_bomb_that_pil_itself_refuses() -> None:
    huge = bytearray(encode_png(np.zeros((1, 1), np.uint8)))
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="not a readable image"):
        decode_image(bytes(huge))


def test_palette_gives_indices_not_colours() -> None:
    indices = np.array([[0, 1, 20], [255, 3, 0]], np.uint8)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(list(range(255, -1, -1)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    assert image_mode(buffer.getvalue()) == "P"
    np.testing.assert_array_equal(decode_index_png(buffer.getvalue()), indices)
    np.testing.assert_array_equal(decode_index_png(encode_png(indices)), indices)


def test_masks_that_are_no_index_pngs(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a PNG of mode RGB"):
        decode_index_png(encode_png(picture))
    with pytest.raises(ValueError, match="a JPEG of mode L"):
        decode_index_png(as_file(picture[..., 0], format="JPEG"))
    with pytest.raises(ValueError, match="a PNG of mode LA"):
        decode_index_png(as_file(picture[..., :2]))
    with pytest.raises(ValueError, match="has 16 bits and holds 256; of at most 254 classes it holds 0 to 255"):
        decode_index_png(as_file(np.full((3, 5), 256, np.uint16)))


def packed(values: np.ndarray, depth: int, *, colour: int) -> bytes:
    """A PNG of so many bits per pixel, written by hand: grey is colour 0, a palette 3."""
    height, width = values.shape
    rows = [b"".join(format(value, f"0{depth}b").encode() for value in row.tolist()) for row in values]
    bits = [row.ljust(-(-len(row) // 8) * 8, b"0") for row in rows]
    pixels = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in bits)
    palette = chunk(b"PLTE", bytes(range(255, -1, -1)) * 3) if colour == 3 else b""
    return png(height, width, pixels, depth=depth, colour=colour, more=palette)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_indices_count_as_they_are_stored_whatever_their_depth(depth: int, colour: int) -> None:
    values = np.random.default_rng(depth).integers(0, min(2**depth, 256), (7, 11))
    found = decode_index_png(packed(values, depth, colour=colour))
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_white_is_255_in_a_map_of_brightness(depth: int) -> None:
    values = np.array([[0, 2**depth - 1, 0], [2**depth - 1, 0, 0]])
    np.testing.assert_array_equal(decode_grey_png(packed(values, depth, colour=0)), (values > 0) * 255)


def test_maps_of_brightness_that_are_none(picture: np.ndarray) -> None:
    grey = Image.fromarray(picture[..., 0])
    buffer = io.BytesIO()
    grey.quantize(200).save(buffer, format="PNG")
    assert np.abs(decode_grey_png(buffer.getvalue()).astype(int) - picture[..., 0]).max() <= 3
    with pytest.raises(ValueError, match=r"this must be a grey PNG \(mode L\), it is a PNG of mode RGB"):
        decode_grey_png(encode_png(picture))


def test_png_bytes_repeat(picture: np.ndarray) -> None:
    assert encode_png(picture) == encode_png(picture.copy())


def test_sixteen_bits_survive_and_other_pictures_are_refused() -> None:
    numbers = np.arange(13 * 19, dtype=np.uint16).reshape(13, 19) * 263
    again = decode_u16_png(encode_png(numbers))
    assert again.dtype == np.uint16 and again.max() > 60_000
    np.testing.assert_array_equal(again, numbers)
    with pytest.raises(ValueError, match="must be a grey PNG of 16 bits, it is a PNG of mode L"):
        decode_u16_png(encode_png(numbers.astype(np.uint8)))


def outcome(read: Callable[[bytes], tuple[int, int]], data: bytes) -> tuple[int, int] | None:
    try:
        return read(data)
    except ValueError:
        return None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}, {"format": "PNG"}])
def test_facts_agree_with_decoding_also_on_damaged_files(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (41, 61, 3), dtype=np.uint8)
    whole = as_file(pixels, **({"format": "JPEG"} | options))
    assert image_metadata(whole) == ((41, 61), 1)
    for _ in range(60):
        cut = whole[: int(generator.integers(0, len(whole)))]
        damaged = bytearray(whole)
        damaged[int(generator.integers(len(whole)))] = int(generator.integers(256))
        for data in (cut, bytes(damaged)):
            expected = outcome(lambda given: decode_image(given).shape[:2], data)
            assert outcome(lambda given: image_metadata(given).size, data) == expected


OF_NONE = [(format, orientation) for format in ("JPEG", "PNG", "WEBP") for orientation in (0, 9)]


@pytest.mark.parametrize(
    ("format", "orientation"),
    [*itertools.product(["JPEG", "TIFF", "PNG", "WEBP"], range(1, 9)), *OF_NONE],
)
def test_facts_are_of_the_upright_image(picture: np.ndarray, format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_file(picture, format=format, exif=exif)
    metadata = image_metadata(data)
    assert metadata.size == decode_image(data).shape[:2]
    assert metadata.orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_facts_of_bombs_and_of_nothing(monkeypatch: pytest.MonkeyPatch, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the file is empty"):
        image_metadata(b"")
    monkeypatch.setattr(images, "MAX_PIXELS", 76)
    with pytest.raises(ValueError, match="11 x 7 pixels, but at most 76 are allowed"):
        image_metadata(as_file(picture))


def test_facts_of_a_jpeg_are_those_of_the_general_way(monkeypatch: pytest.MonkeyPatch, picture: np.ndarray) -> None:
    """Whatever is wrong with it, and wherever its orientation stands."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x tiff:Orientation="8"/>'
    random, files = np.random.default_rng(2), []
    for options in ({}, {"exif": exif}, {"xmp": xmp}, {"comment": b"a", "progressive": True, "dpi": (72, 72)}):
        data = as_file(picture, format="JPEG", **options)
        files += [data, data[: len(data) * 3 // 4]]
        for _ in range(100):
            damaged = bytearray(data)
            damaged[random.integers(3, len(data))] = random.integers(0, 256)
            files.append(bytes(damaged))
    fast = [reported(data) for data in files]
    monkeypatch.setattr(images, "_open_jpeg", lambda data: None)
    assert fast == [reported(data) for data in files]
    assert {found[1] for found in fast if isinstance(found, tuple)} >= {1, 6, 8}


def reported(data: bytes) -> object:
    try:
        return image_metadata(data)
    except ValueError as error:
        return str(error)


def deep_png(colours_HW3: np.ndarray) -> bytes:
    """An RGB PNG of 16 bits per channel; PIL writes none."""
    return bytes(cv2.imencode(".png", colours_HW3[..., ::-1].astype(np.uint16))[1])


def test_colours_that_stand_for_ids_are_exact() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    assert (decode_colour_png(encode_png(colours)) == colours).all()
    with pytest.raises(ValueError, match="must be a PNG, this one is a JPEG; other formats change colours"):
        decode_colour_png(encode_jpeg(colours))
    # PIL would decode the high byte of each channel: 0.
    with pytest.raises(ValueError, match="16 bits per channel; allowed: 8"):
        decode_colour_png(deep_png(colours))
