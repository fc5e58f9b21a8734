"""Grad-CAM++ one block before the last: ours against the package grad-cam, one thread.

    .venv/bin/python -m tests.benchmarks.grad_cam

The work: raw maps of three classes of one image in eight views (four scales, each with its mirror image), of a
ResNet-50 like irn's. The package is called once for each class and view, as its interface requires; both get the same
views, prepared beforehand. Ours runs an image and its mirror image in one forward pass, and backward only from the
logits to the layer.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.layer_gradients import LayerGradients, find_layer
from wsss.ops.grad_cam import grad_cam_pp
from wsss.ops.multi_scale import resize_bilinear, view_sizes

SIZE, SCALES, CLASSES, NUM_CLASSES, LAYER, REPETITIONS = (160, 192), (1.0, 0.5, 1.5, 2.0), (3, 8, 17), 20, "layer4.1", 3
LARGEST_ERROR = 1e-4
RATIO_BAR = 3.0


class RawMaps(GradCAMPlusPlus):
    """The package's method; its maps are stored before it rescales them."""

    raw: list[Tensor]

    def get_cam_image(self, *arguments: object, **named: object) -> object:
        """The map [B,h,w], signed."""
        image = super().get_cam_image(*arguments, **named)
        self.raw.append(torch.from_numpy(image.copy()))
        return image


def views() -> list[Tensor]:
    """Batches [2,3,H,W]: an image and its mirror image, at every scale."""
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    resized = [resize_bilinear(image, size=size) for size in view_sizes(SIZE, scales=SCALES)]
    return [torch.cat([view, view.flip(-1)]) for view in resized]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = EncoderSpec(name="resnet50", output_stride=16, dilated=False, pretrained="none")
    network = Classifier(build_encoder(spec), num_classes=NUM_CLASSES, head="linear").eval()
    theirs = copy.deepcopy(network)  # the package needs parameters that require gradients
    batches, look = views(), LayerGradients(network, layer=LAYER)
    package = RawMaps(model=theirs, target_layers=[find_layer(theirs, LAYER)])

    def ours() -> list[Tensor]:
        maps = []
        for batch in batches:
            activations, gradients, _, _ = look(batch, classes=[CLASSES] * len(batch))
            maps.append(grad_cam_pp(activations, gradients_KBDhw=torch.stack(list(gradients))))
        return maps

    def rival() -> list[Tensor]:
        maps = []
        for batch in batches:
            package.raw = []
            for view in batch:
                for class_id in CLASSES:
                    package(input_tensor=view[None], targets=[ClassifierOutputTarget(class_id - 1)])
            maps.append(torch.cat(package.raw).unflatten(0, (2, len(CLASSES))))
        return maps

    wanted, found = rival(), ours()
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
    times = [(seconds(ours), seconds(rival)) for _ in range(REPETITIONS)]
    ours_seconds = statistics.median(mine for mine, _ in times)
    ratio = statistics.median(theirs for _, theirs in times) / ours_seconds
    report = {
        "name": "grad_cam",
        "ratio": ratio,
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": {
            "times the package's images per second": {"value": ratio, "bar": RATIO_BAR, "ok": ratio > RATIO_BAR}
        },
        "seconds_per_image": ours_seconds,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
