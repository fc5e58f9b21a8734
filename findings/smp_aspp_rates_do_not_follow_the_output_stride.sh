#!/usr/bin/env bash
# segmentation_models_pytorch 0.6.0: DeepLabV3Plus has ASPP rates of 12, 24 and 36 at both output strides that it allows.
#
# The DeepLabv3 and v3+ papers use 6, 12 and 18 at output stride 16, and double them at output stride 8. The library's
# default is output stride 16 with the rates for 8 (`decoder_atrous_rates` does not depend on `encoder_output_stride`),
# so every branch reaches twice as far as published. For a crop of 352 pixels the grid is 22 x 22: at rates of 24 and 36
# all outer weights of the 3 x 3 kernels lie on padding, whatever the position. They never get a gradient, so two of the
# three branches are 1 x 1 convolutions. There is no warning. With decoder_atrous_rates=(6, 12, 18) all weights learn.
#
# Observed with segmentation_models_pytorch 0.6.0 and torch 2.15.0 on a CPU, an image of 352 x 352, output stride 16:
#   rates of the dilated convolutions: stride 8 [12, 24, 36], stride 16 [12, 24, 36]
#   weights of 9 that get a gradient: rate 12: 9, rate 24: 1, rate 36: 1
#   with the published rates: rate 6: 9, rate 12: 9, rate 18: 9
#
# Exit status: 0 if it still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=(segmentation-models-pytorch==0.6.0 torch==2.15.0 torchvision numpy==2.4.6)
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

import segmentation_models_pytorch as smp
import torch


def dilated(network):
    found = [layer for layer in network.decoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    return [layer for layer in found if layer.dilation != (1, 1)]


def network(**options):
    torch.manual_seed(0)
    return smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=3, **options).eval()


def learning(**options):
    """Rate -> how many of the nine positions of its kernel get a gradient."""
    model = network(**options)
    model(torch.randn(1, 3, 352, 352)).square().sum().backward()
    return {c.dilation[0]: int((c.weight.grad.abs().amax((0, 1)) > 0).sum()) for c in dilated(model)}


rates = {stride: [c.dilation[0] for c in dilated(network(encoder_output_stride=stride))] for stride in (8, 16)}
default, published = learning(), learning(decoder_atrous_rates=(6, 12, 18))
print(f"rates of the dilated convolutions: stride 8 {rates[8]}, stride 16 {rates[16]}")
print("weights of 9 that get a gradient:", ", ".join(f"rate {rate}: {number}" for rate, number in default.items()))
print("with the published rates:", ", ".join(f"rate {rate}: {number}" for rate, number in published.items()))
same = rates == {8: [12, 24, 36], 16: [12, 24, 36]} and default == {12: 9, 24: 1, 36: 1}
sys.exit(0 if same and published == {6: 9, 12: 9, 18: 9} else "smp behaves differently now: this finding is out of date")
PYTHON
