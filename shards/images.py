"""Image codecs: bytes to arrays and back, with one error for everything that does not decode.

What becomes of an odd image; its file's own bytes are kept in every case, and a name's ending says nothing:

| image | becomes |
|---|---|
| JPEG, progressive too; PNG, WebP, GIF, BMP, TIFF, JPEG 2000, PNM | itself, whatever its name ends in |
| any other (EPS, PDF, SVG, ICO, AVIF, HTML) | refused: they start programs, or are not read everywhere |
| grey, 1 bit, palette | its colours; grey in three equal channels |
| alpha, transparent colours | left out: the colours below |
| CMYK, YCbCr, Lab | RGB by PIL's arithmetic, without a profile |
| 16 bits per channel | the upper 8 |
| 32 bits per pixel of one channel, whole or float; 16-bit PGM | refused: what is white is not known |
| EXIF orientation 1 to 8, of TIFF and WebP too | upright; any other value is as 1 |
| several pictures (MPO, animated GIF, PNG and WebP, pages of TIFF) | the first |
| more than 100 million pixels by the header, more than a megabyte of packed text | refused, no pixel is decoded |
| cut short, damaged, of zero bytes | refused |

Refused is a ValueError with the reason; build_shards records the image as missing with it, and goes on.

Of a mask, a PNG of indices, the values count as they are stored: grey or palette, of 1, 2, 4, 8 or 16 bits (to 255).
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
"""What PIL raises on damaged bytes; no MemoryError, which is not the image's fault."""

# PIL warns at 89 million, which is no fault yet, and refuses twice its limit by itself.
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
"""What PIL may tell of an image beside EXIF and XMP."""


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        # PIL's own words hold a memory address: a reason in a manifest must be the same in every run.
        raise ValueError("not a readable image: of no known format") from None
    except (*_DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"not a readable image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed")
    return image


def _open_jpeg(data: bytes) -> Image.Image | None:
    """A JPEG of ordinary size without the search for its format; None for everything else, and where it has a fault."""
    if data[:3] != _JPEG:
        return None
    try:
        image = JpegImageFile(io.BytesIO(data))
    except Exception:
        return None  # whatever it is, `_open` meets it again and has the words for it
    return image if image.width * image.height <= min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or 0) else None


def image_mode(data: bytes) -> str:
    """PIL's mode of an image file: L grey, P palette, RGB and so on."""
    return _open(data).mode


def decode_image(data: bytes) -> np.ndarray:
    """Bytes of any image file to u8[H, W, 3] RGB, upright. Raises ValueError with the reason."""
    image = _open(data)
    try:
        _refuse_unknown_white(image)
        upright = image
        ImageOps.exif_transpose(upright, in_place=True)
        upright.info.pop("transparency", None)  # else PIL warns of colours that are left out on purpose
        if upright.mode.startswith("I;16"):
            # PIL would clip 16-bit grey at 255 and give an almost white picture.
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except _DAMAGED as error:
        raise ValueError(f"the image does not decode: {error}") from error


def _refuse_unknown_white(image: Image.Image) -> None:
    if image.mode in ("I", "F"):
        raise ValueError(f"a {image.format} of mode {image.mode}, 32 bits per pixel: what is white in it is not known")


class ImageFacts(NamedTuple):
    """What is known of an image once it was checked to decode."""

    size: tuple[int, int]
    """(H, W) as `decode_image` gives it: upright."""
    orientation: int
    """EXIF's: 1 where the pixels are stored upright, 5 to 8 where height and width change places."""


def image_metadata(data: bytes) -> ImageFacts:
    """Size and orientation of an image that decodes. Raises ValueError where `decode_image` does.

    A JPEG is decoded at an eighth of its size: all its bytes are read, most of the arithmetic is left out.
    """
    image = _open_jpeg(data) or _open(data)
    height, width = image.height, image.width
    is_turned = image.format == "TIFF"
    try:
        _refuse_unknown_white(image)
        # PIL turns a TIFF itself: its size is the upright one, and its orientation is gone once it is loaded.
        found = _orientation(image) if is_turned else 1
        image.draft(None, (1, 1))
        image.load()
        if not is_turned and not _SAYS_NO_ORIENTATION.issuperset(image.info):
            found = _orientation(image)  # of a PNG it may stand behind the pixels
    except _DAMAGED as error:
        raise ValueError(f"the image does not decode: {error}") from error
    return ImageFacts((width, height) if found >= 5 and not is_turned else (height, width), found)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where it says none of 1 to 8."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(found) if found in range(1, 9) else 1


def encode_png(array: np.ndarray) -> bytes:
    """u8[H, W], u8[H, W, 3] or u16[H, W] to PNG bytes; the same array always gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_index_png(data: bytes) -> np.ndarray:
    """An index PNG (grey or palette, 1 to 16 bits) to its indices as they are stored, u8[H, W].

    A palette is never turned into colours, and grey of few bits never scaled to white. Raises ValueError for indices
    above 255.
    """
    image = _open(data)
    if image.format != "PNG" or not (image.mode in ("L", "P", "1") or image.mode.startswith("I")):
        raise ValueError(
            f"a mask must be a PNG of indices (mode L or P), this one is a {image.format} of mode {image.mode}; save "
            "the number of every pixel's class, not a colour"
        )
    try:
        indices = np.asarray(image)
    except _DAMAGED as error:
        raise ValueError(f"the mask does not decode: {error}") from error
    if image.mode == "L":
        return indices // _white_of(data)
    if image.mode.startswith("I") and indices.max(initial=0) > 255:
        raise ValueError(f"the mask is of 16 bits and holds {indices.max()}; class ids are 0 to 255")
    return indices.astype(np.uint8, copy=True)


def _white_of(data: bytes) -> np.uint8:
    """By what PIL has multiplied the values of a grey PNG of 2 or 4 bits, so that the largest is 255; else 1."""
    depth = data[24] if data[12:16] == b"IHDR" else 8
    return np.uint8({2: 85, 4: 17}.get(depth, 1))


def decode_grey_png(data: bytes) -> np.ndarray:
    """A PNG of brightness (grey of any depth, or grey colours in a palette), u8[H, W]: white is 255."""
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
    """A grey PNG of 16 bits to u16[H, W]."""
    image = _open(data)
    if image.format != "PNG" or not image.mode.startswith("I"):
        raise ValueError(f"this must be a grey PNG of 16 bits, it is a {image.format} of mode {image.mode}")
    try:
        return np.asarray(image).astype(np.uint16)
    except _DAMAGED as error:
        raise ValueError(f"the map does not decode: {error}") from error
