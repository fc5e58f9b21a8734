#!/usr/bin/env bash
# torchmetrics 1.9.0: if a prediction equals ignore_index (255, "undecided", in pseudo labels) and the target does not,
# the pixel is counted under the target class plus one. There is no error, even with validate_args=True.
#
# The index of a pixel's cell is target * num_classes + prediction. With 201 classes, target 3 and prediction 255 it is
# 3 * 201 + 255 = 4 * 201 + 54: a pixel of class 3 is counted as a pixel of class 4 that was predicted as 54. Every IoU
# and accuracy computed from the matrix is wrong: class 3 scores 1.0 although one of its four pixels was not found.
# The argument check is documented to require predictions in 0 .. num_classes - 1, but it only counts distinct values,
# and allows num_classes + 1 of them if ignore_index is given.
#
# Observed with torchmetrics 1.9.0 and torch 2.15.0 on a CPU:
#   matrix[3, 3] = 3, matrix[4, 54] = 1, all cells together 4
#   IoU of class 3: 1.0 (correct: 0.75); mean IoU 0.333 (over the classes 3, 4 and 54)
#
# Exit status: 0 if it still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=(torchmetrics==1.9.0 torch==2.15.0 numpy==2.4.6)
if command -v uv >/dev/null; then
  uv venv --quiet --python "${PYTHON:-3.11}" "$folder/venv"
  uv pip install --quiet --python "$folder/venv/bin/python" "${packages[@]}"
else
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
fi
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

options = {"num_classes": 201, "ignore_index": 255, "validate_args": True}
target = torch.tensor([[3, 3, 3, 3, 255]])
prediction = torch.tensor([[3, 3, 3, 255, 7]])
matrix = multiclass_confusion_matrix(prediction, target, **options)
by_class = multiclass_jaccard_index(prediction, target, average="none", **options)
mean = float(multiclass_jaccard_index(prediction, target, average="macro", **options))
print(f"matrix[3, 3] = {matrix[3, 3]}, matrix[4, 54] = {matrix[4, 54]}, all cells together {matrix.sum()}")
print(f"IoU of class 3: {by_class[3]} (correct: 0.75); mean IoU {mean:.3f} (over the classes 3, 4 and 54)")
same = (matrix[3, 3], matrix[4, 54], matrix.sum()) == (3, 1, 4) and by_class[3] == 1.0 and abs(mean - 1 / 3) < 1e-6
sys.exit(0 if same else "torchmetrics behaves differently now: this finding is out of date")
PYTHON
