#!/usr/bin/env bash
# Pillow 13.0.0: a mask whose colours stand for class ids (R + 256 G, as in ImageNet-S and COCO's panoptic masks) and that
# was saved with 16 bits per channel is opened as mode "RGB" with 8 bits: the high byte of every channel. All small values
# become 0, so the whole mask becomes background. There is no error or warning, and nothing but the file's header tells.
#
# Such files come from tools that keep their arrays in uint16, since ids go up to 1000: OpenCV writes a uint16 array of
# three channels as a PNG of 16 bits. OpenCV's own imread does the same by default (IMREAD_COLOR); IMREAD_UNCHANGED does
# not. Grey PNGs of 16 bits are no trap: Pillow opens these as mode "I;16" with all their bits.
#
# Observed with Pillow 13.0.0, OpenCV 5.0.0.93 and NumPy 2.4.6, for the ids 300, 1000, 7 and 0:
#   Pillow: RGB uint8 [0, 0, 0, 0]; OpenCV, default: uint8 [0, 0, 0, 0]; OpenCV, unchanged: uint16 [300, 1000, 7, 0]
#
# Exit status: 0 if it still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=(pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv --quiet --python "${PYTHON:-3.11}" "$folder/venv"
  uv pip install --quiet --python "$folder/venv/bin/python" "${packages[@]}"
else
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
fi
cd "$folder"
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys

import cv2
import numpy as np
from PIL import Image


def ids_of(colours: np.ndarray) -> list[int]:
    """R + 256 G of every pixel."""
    return (colours[..., 0].astype(int) + 256 * colours[..., 1].astype(int)).flatten().tolist()


ids = np.array([[300, 1000], [7, 0]], np.uint16)
colours = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=2)
cv2.imwrite("mask.png", colours[..., ::-1])  # OpenCV's order of channels is B, G, R
with Image.open("mask.png") as image:
    opened = np.asarray(image)
    print(f"Pillow: {image.mode} {opened.dtype} {ids_of(opened)}")
    pillow = (image.mode, str(opened.dtype), ids_of(opened))
default, unchanged = (cv2.imread("mask.png", flag)[..., ::-1] for flag in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED))
print(f"OpenCV, default: {default.dtype} {ids_of(default)}; unchanged: {unchanged.dtype} {ids_of(unchanged)}")
same = pillow == ("RGB", "uint8", [0, 0, 0, 0]) and ids_of(default) == [0, 0, 0, 0]
same = same and str(unchanged.dtype) == "uint16" and ids_of(unchanged) == [300, 1000, 7, 0]
sys.exit(0 if same else "Pillow or OpenCV behaves differently now: this finding is out of date")
PYTHON
