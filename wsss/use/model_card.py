"""The model card of an exported network: what it is, how it was trained and how to use it."""

from __future__ import annotations

from wsss.use.model_file import ModelFile

_CARD = """\
---
library_name: segmentation-models-pytorch
pipeline_tag: image-segmentation
tags:
- semantic-segmentation
- weakly-supervised
---

# DeepLabv3+ on {encoder}, {num_classes} classes

Trained by wsss ({kind}, fingerprint `{fingerprint}`) {supervision}. Pretraining of the encoder: {pretrained}.

## Use

```python
import segmentation_models_pytorch as smp
import torch

model = smp.from_pretrained("FOLDER").eval()
mean, std = torch.tensor({mean})[:, None, None], torch.tensor({std})[:, None, None]
# image: u8[H, W, 3] in RGB, H and W multiples of {stride}, longer side about {side} pixels as in training
x = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
mask = model(x[None]).argmax(1)[0]
```

## Classes

| id | name |
|---|---|
{classes}

## How it differs from the network that was trained

The norm of the ASPP's image pooling is a GroupNorm in the trained network and a BatchNorm here, fitted on {pictures}
pictures. On these, {same_pixels:.2%} of the pixels have the same class. All other weights are the same.
"""


def model_card(model: ModelFile, *, pictures: int, same_pixels: float) -> str:
    """The text of README.md."""
    known = model.metadata.settings
    low, high = known["resize_long"]
    names = ("background", *model.taxonomy.names)
    pretrained = str(known["pretrained"])
    return _CARD.format(
        encoder=known["encoder"],
        num_classes=len(names),
        kind=model.metadata.kind,
        fingerprint=model.metadata.fingerprint[:16],
        supervision={
            "image": "with image-level labels only",
            "semi": "with image-level labels and masks of some images",
            "full": "with masks",
        }[model.stage.supervision()],
        pretrained=f"a weight file ({pretrained})" if pretrained.startswith("sha256:") else pretrained,
        mean=list(known["mean"]),
        std=list(known["std"]),
        stride=known["output_stride"],
        side=(low + high) // 2,
        classes="\n".join(f"| {number} | {name} |" for number, name in enumerate(names)),
        pictures=pictures,
        same_pixels=same_pixels,
    )
