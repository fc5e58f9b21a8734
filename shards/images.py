"""Image codecs: bytes to arrays and back, with one error for everything that does not decode.

How unusual images are read. The file's own bytes are always kept, and the file extension is ignored:

| image | result |
|---|---|
| JPEG (also progressive), PNG, WebP, GIF, BMP, TIFF, JPEG 2000, PNM | read, whatever the file extension |
| any other format (EPS, PDF, SVG, ICO, AVIF, HTML) | refused: decoding starts programs or is not available everywhere |
| grey, 1 bit, palette | RGB; grey as three equal channels |
| alpha, transparent colours | transparency is ignored, the colour values are used |
| CMYK, YCbCr, Lab | RGB by PIL's conversion, without a colour profile |
| 16 bits per channel | the upper 8 bits |
| one channel of 32 bits, integer or float; 16-bit PGM | refused: the value of white is not known |
| EXIF orientation 1 to 8, also of TIFF and WebP | turned upright; any other value is treated as 1 |
| several images (MPO, animated GIF, PNG and WebP, pages of TIFF) | the first |
| more than 100 million pixels by the header, more than a megabyte of compressed text | refused before decoding |
| truncated, damaged, empty | refused |

"Refused" means a ValueError with the reason. build_shards records the image as missing with that reason and continues.

A mask is a PNG of indices, grey or palette, of 1, 2, 4, 8 or 16 bits; its values are used as stored. In data sets of up
to 254 classes they are at most 255, in larger ones every mask has 16 bits.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

MAX_PIXELS = 100_000_000
"""Above this an image is refused as a decompression bomb."""
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error)
"""What PIL raises on damaged bytes; not MemoryError, which is not the image's fault."""

# PIL warns above its limit (89 million by default) and refuses only above twice the limit.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

_JPEG = b"\xff\xd8\xff"
_SAYS_NO_ORIENTATION = frozenset(
    (
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "dpi",
        "progressive",
        "progression",
        "adobe",
        "adobe_transform",
        "icc_profile",
        "comment",
    )
)
"""Entries of PIL's `Image.info` that do not contain EXIF or XMP."""


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        # PIL's message contains a memory address, but a reason in a manifest must be the same in every run.
        raise ValueError("not a readable image: unknown format") from None
    except (*_DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"not a readable image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, but at most {MAX_PIXELS} are allowed")
    return image


def _open_jpeg(data: bytes) -> Image.Image | None:
    """Open a JPEG of ordinary size without trying other formats; None for any other file, and for a faulty JPEG."""
    if data[:3] != _JPEG:
        return None
    try:
        image = JpegImageFile(io.BytesIO(data))
    except Exception:
        return None  # `_open` meets the same error and reports it
    return image if image.width * image.height <= min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or 0) else None


def image_mode(data: bytes) -> str:
    """PIL's mode of an image file: L (grey), P (palette), RGB, etc."""
    return _open(data).mode


def decode_colour_png(data: bytes) -> np.ndarray:
    """Decode a PNG of colours that stand for ids to u8[H, W, 3]. Raises ValueError for another format, whose colours
    are not exact, and for 16 bits per channel, of which decoding keeps 8."""
    image = _open(data)
    if image.format != "PNG":
        raise ValueError(f"a mask of colours must be a PNG, this one is a {image.format}; other formats change colours")
    if data[12:16] == b"IHDR" and data[24] == 16:
        raise ValueError("it has 16 bits per channel; allowed: 8")
    return pixels_of(image)


def decode_image(data: bytes) -> np.ndarray:
    """Decode the bytes of an image file to u8[H, W, 3] RGB, upright. Raises ValueError with the reason."""
    return pixels_of(_open(data))


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an opened image as `decode_image` returns them. Raises ValueError with the reason."""
    try:
        _refuse_unknown_white(image)
        upright = image
        ImageOps.exif_transpose(upright, in_place=True)
        upright.info.pop("transparency", None)  # avoids PIL's warning: transparency is ignored on purpose
        if upright.mode.startswith("I;16"):
            # PIL would clip 16-bit grey at 255, so the image would be almost white.
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except _DAMAGED as error:
        raise ValueError(f"the image does not decode: {error}") from error


def _refuse_unknown_white(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise ValueError(f"a {image.format} of mode {image.mode}, 32 bits per pixel: its value of white is not known")


class ImageMetadata(NamedTuple):
    """Metadata of an image that was checked to decode."""

    size: tuple[int, int]
    """(H, W) of the upright image, as `decode_image` returns it."""
    orientation: int
    """EXIF orientation: 1 if the pixels are stored upright, 5 to 8 if height and width are swapped."""


def image_metadata(data: bytes) -> ImageMetadata:
    """Size and orientation of an image that decodes. Raises ValueError whenever `decode_image` does.

    A JPEG is decoded at an eighth of its size: all its bytes are read, but most of the computation is skipped.
    """
    image = _open_jpeg(data) or _open(data)
    height, width = image.height, image.width
    is_turned = image.format == "TIFF"
    try:
        _refuse_unknown_white(image)
        # PIL turns a TIFF itself: it reports the upright size, and drops the orientation on loading.
        found = _orientation(image) if is_turned else 1
        image.draft(None, (1, 1))
        image.load()
        if not is_turned and not _SAYS_NO_ORIENTATION.issuperset(image.info):
            found = _orientation(image)  # in a PNG it may follow the pixel data
    except _DAMAGED as error:
        raise ValueError(f"the image does not decode: {error}") from error
    return ImageMetadata((width, height) if found >= 5 and not is_turned else (height, width), found)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if it is missing or not in 1 to 8."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(found) if found in range(1, 9) else 1


def encode_png(array: np.ndarray) -> bytes:
    """Encode u8[H, W], u8[H, W, 3] or u16[H, W] as PNG; the same array always gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(array: np.ndarray, *, quality: int = 80) -> bytes:
    """Encode u8[H, W, 3] as JPEG, for pages and previews; never for data."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode_index_png(data: bytes, *, allowed: str = "mode L or P") -> np.ndarray:
    """Decode an index PNG (grey or palette, 1 to 16 bits) to its indices as stored, u8[H, W].

    Palette indices are not converted to colours, and grey values of 1 to 4 bits are not scaled to 255. Raises
    ValueError for indices above 255, and for another image, with the `allowed` modes.
    """
    image = _open(data)
    if image.format != "PNG" or not (image.mode in ("L", "P", "1") or image.mode.startswith("I")):
        raise ValueError(
            f"a mask must be a PNG of indices ({allowed}), this one is a {image.format} of mode {image.mode}; save "
            "the class id of every pixel, not a colour"
        )
    try:
        indices = np.asarray(image)
    except _DAMAGED as error:
        raise ValueError(f"the mask does not decode: {error}") from error
    if image.mode == "L":
        return indices // _white_of(data)
    if image.mode.startswith("I") and indices.max(initial=0) > 255:
        most = indices.max()
        raise ValueError(
            f"the mask has 16 bits and holds {most}; of at most 254 classes it holds 0 to 255, 255 ignored"
        )
    return indices.astype(np.uint8, copy=True)


def decode_label_png(data: bytes) -> np.ndarray:
    """Decode an index PNG to u8[H, W], or to u16[H, W] if it has 16 bits: the inverse of `encode_png`.

    Raises ValueError as `decode_index_png`, except for large indices.
    """
    if data[12:16] == b"IHDR" and data[24] == 16:
        return decode_u16_png(data)
    return decode_index_png(data, allowed="mode L or P, or 16 bits for 255 classes or more")


def _white_of(data: bytes) -> np.uint8:
    """The factor by which PIL scales the values of a grey PNG of 2 or 4 bits to reach 255; 1 for other depths."""
    depth = data[24] if data[12:16] == b"IHDR" else 8
    return np.uint8({2: 85, 4: 17}.get(depth, 1))


def decode_grey_png(data: bytes) -> np.ndarray:
    """Decode a PNG of brightness (grey of any depth, or a grey palette) to u8[H, W]: white is 255."""
    image = _open(data)
    if image.format != "PNG" or not (image.mode in ("L", "P", "1") or image.mode.startswith("I;16")):
        raise ValueError(f"this must be a grey PNG (mode L), it is a {image.format} of mode {image.mode}")
    try:
        if image.mode.startswith("I;16"):
            return (np.asarray(image) >> 8).astype(np.uint8)
        return np.array(image.convert("L"))
    except _DAMAGED as error:
        raise ValueError(f"the map does not decode: {error}") from error


def decode_u16_png(data: bytes) -> np.ndarray:
    """Decode a grey PNG of 16 bits to u16[H, W]."""
    image = _open(data)
    if image.format != "PNG" or not image.mode.startswith("I"):
        raise ValueError(f"this must be a grey PNG of 16 bits, it is a {image.format} of mode {image.mode}")
    try:
        return np.asarray(image).astype(np.uint16)
    except _DAMAGED as error:
        raise ValueError(f"the map does not decode: {error}") from error
