"""Pseudo labels of one image, by the public steps of irn and by ours: CAMs, seeds, boundary map, random walk, labels.

    IRN_ROOT=CHECKOUT .venv/bin/python -m tests.benchmarks.irn_steps [--size 375 500] [--image FILE]

CHECKOUT is a clone of github.com/jiwoon-ahn/irn, which is read and not changed: its `.cuda()` calls stay on the CPU,
and the download of weights returns ours, by replacing these functions before its modules are imported. Both sides have
the same ResNet-50 (random weights, statistics of one batch), the same image and views (scales 0.5, 1, 1.5, 2,
mirrored), K = 2 classes, beta 10, 2^8 steps, and one thread. Needs pydensecrf2 (`make bench`); 375 x 500 takes about 10
minutes and 4 GiB, most of it for irn's walk, which squares a matrix of 11,750 x 11,750 eight times.

First each step of irn is compared with ours on the same input: the CAM of one view, the CRF's labels, the scores after
the walk. The boundary branches differ (ours reads the level before the pooling), so there the encoder's last map is
compared. Then the time: every step once, ours after a warm-up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils import model_zoo

from shards.images import decode_image
from tests.benchmarks.dense_crf import BILATERAL, GAUSSIAN, GT_PROB, NUM_ITERATIONS, draw_picture
from wsss.data.images import to_tensor
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.inference import for_inference
from wsss.models.irnet import IRNet
from wsss.ops.cam import class_activation_map
from wsss.ops.multi_scale import grid_size, magnify, merge_views, resize_bilinear, view_sizes
from wsss.ops.random_walk import random_walk
from wsss.ops.seeds import crf_refinement, two_threshold_seeds
from wsss.stages.affinity.walk import edge_probability

SCALES, CLASSES, BETA, STEPS_LOG2, RADIUS = (0.5, 1.0, 1.5, 2.0), [3, 8], 10, 8, 5
FOREGROUND, BACKGROUND, LABEL_THRESHOLD = 0.3, 0.05, 0.25
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATIO_BAR = 20.0
Step = Callable[[], Any]


def encoder_weights() -> dict[str, torch.Tensor]:
    """A ResNet-50 with random weights whose batch norms have the statistics of one batch of noise."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 128, 128))
    return dict(network.state_dict())


def irn_modules(root: Path, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """irn's modules, on the CPU and with these weights."""
    sys.path.insert(0, str(root))
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[assignment, method-assign]
    torch.nn.Module.cuda = lambda module, *_, **__: module  # type: ignore[assignment, method-assign]
    model_zoo.load_url = lambda *_, **__: dict(weights)  # type: ignore[assignment]
    names = ("net.resnet50_cam", "net.resnet50_irn", "misc.imutils", "misc.indexing")
    return {name: importlib.import_module(name) for name in names}


class Both:
    """The networks and the inputs of both sides."""

    def __init__(self, root: Path, image_HW3: np.ndarray) -> None:
        weights = encoder_weights()
        self.irn = irn_modules(root, weights)
        self.image = image_HW3
        self.size = (image_HW3.shape[0], image_HW3.shape[1])
        # Their batch norms always use the stored statistics, so no mode has to be set.
        self.their_cam = self.irn["net.resnet50_cam"].CAM()
        self.their_irn = self.irn["net.resnet50_irn"].EdgeDisplacement()
        spec = EncoderSpec(name="resnet50", output_stride=16, dilated=False, pretrained="none")
        classifier = Classifier(build_encoder(spec), num_classes=20, head="linear")
        irnet = IRNet(build_encoder(spec))
        for one in (classifier, irnet):
            one.encoder.network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
        with torch.no_grad():
            classifier.cam_weights.copy_(self.their_cam.classifier.weight[:, :, 0, 0])
        self.plain = classifier.eval()
        last = torch.channels_last
        self.classifier = for_inference(classifier.to(memory_format=last).eval(), look=Classifier.features)
        self.irnet = for_inference(irnet.to(memory_format=last).eval(), look=lambda one, x: one.edge_logits(x))
        self.x_13HW = to_tensor(image_HW3, mean=MEAN, std=STD)[None]
        self.pair = torch.cat([self.x_13HW, self.x_13HW.flip(-1)])
        self.cam_Khw = torch.empty(0)
        self.high_KHW = torch.empty(0)
        self.edge_hw = torch.empty(0)

    # irn's steps, as in its files step/*.py.

    def their_views(self) -> list[torch.Tensor]:
        rescale = self.irn["misc.imutils"].pil_rescale
        images = [self.image if scale == 1 else rescale(self.image, scale, order=3) for scale in SCALES]
        tensors = [to_tensor(image, mean=MEAN, std=STD) for image in images]
        return [torch.stack([one, one.flip(-1)]) for one in tensors]

    def their_cams(self) -> None:
        outputs = [self.their_cam(views) for views in self.their_views()]
        rows = torch.tensor(CLASSES) - 1
        self.cam_Khw = self._added(outputs, grid_size(self.size, stride=4))[rows]
        padded = (-(-self.size[0] // 16) * 16, -(-self.size[1] // 16) * 16)
        high_KHW = self._added(outputs, padded)[rows, : self.size[0], : self.size[1]]
        self.cam_Khw /= self.cam_Khw.amax((1, 2), keepdim=True) + 1e-5
        self.high_KHW = high_KHW / (high_KHW.amax((1, 2), keepdim=True) + 1e-5)

    @staticmethod
    def _added(outputs: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        return torch.stack([resize_bilinear(one, size=size) for one in outputs]).sum(0)

    def their_seeds(self) -> np.ndarray:
        keys, found = np.array([0, *CLASSES]), []
        for threshold in (FOREGROUND, BACKGROUND):
            planes = np.pad(self.high_KHW.numpy(), ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
            refine = self.irn["misc.imutils"].crf_inference_label
            found.append(keys[refine(self.image, planes.argmax(0), n_labels=len(keys))])
        label = np.where(found[0] == 0, 255, found[0])
        label[(found[0] == 0) & (found[1] == 0)] = 0
        return label

    def their_edge(self) -> None:
        self.edge_hw = self.their_irn(self.pair)[0]

    def their_walk(self) -> torch.Tensor:
        walk = self.irn["misc.indexing"].propagate_to_edge
        walked: torch.Tensor = walk(self.cam_Khw, self.edge_hw, beta=BETA, exp_times=STEPS_LOG2, radius=RADIUS)[:, 0]
        return walked

    # Ours.

    def our_cams(self) -> torch.Tensor:
        outputs = []
        for size in view_sizes(self.size, scales=SCALES):
            view = resize_bilinear(self.x_13HW, size=size)
            features = self.classifier.features(torch.cat([view, view.flip(-1)]))
            maps = class_activation_map(features, weights_CD=self.classifier.cam_weights, classes=CLASSES)
            outputs += [(maps[0], False), (maps[1], True)]
        merged = merge_views(outputs, size=grid_size(self.size, stride=4))
        return merged / (merged.amax((1, 2), keepdim=True) + 1e-5)

    def our_seeds(self, high_KHW: torch.Tensor) -> torch.Tensor:
        refine = crf_refinement(
            torch.from_numpy(self.image),
            num_labels=len(CLASSES) + 1,
            gt_prob=GT_PROB,
            num_iterations=NUM_ITERATIONS,
            gaussian=GAUSSIAN,
            bilateral=BILATERAL,
        )
        return two_threshold_seeds(
            high_KHW,
            classes=CLASSES,
            foreground_threshold=FOREGROUND,
            background_threshold=BACKGROUND,
            refine=refine,
        )

    def our_walk(self, edge_1hw: torch.Tensor) -> torch.Tensor:
        return random_walk(self.cam_Khw[None], edge_hw=edge_1hw, radius=RADIUS, beta=BETA, num_steps_log2=STEPS_LOG2)[0]

    def label(self, walked_Khw: torch.Tensor) -> torch.Tensor:
        """The label map of scores after the walk, for both sides."""
        scores = magnify(walked_Khw, size=self.size, stride=4)
        scores = scores / scores.max()
        plane = torch.full_like(scores[:1], LABEL_THRESHOLD)
        return torch.tensor([0, *CLASSES])[torch.cat([plane, scores]).max(0).indices]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def timed(what: str, step: Step, *, side: str) -> tuple[Any, float]:
    began = time.process_time()
    result = step()
    taken = time.process_time() - began
    print(f"{side:5} {what:9} {taken:8.2f} s", flush=True)
    return result, taken


def measure(both: Both) -> dict[str, Any]:
    checks: dict[str, Any] = {}

    def check(what: str, value: float, bar: float) -> None:
        checks[what] = {"value": value, "bar": bar, "ok": value <= bar}

    theirs, seeds = 0.0, np.empty(0)
    for what, step in (("cams", both.their_cams), ("seeds", both.their_seeds), ("boundary", both.their_edge)):
        result, taken = timed(what, step, side="irn")
        theirs += taken
        seeds = result if what == "seeds" else seeds
    walked, taken = timed("walk", both.their_walk, side="irn")
    theirs += taken
    both.our_cams(), both.our_seeds(both.high_KHW), edge_probability(both.irnet, both.x_13HW)  # warm-up
    ours = 0.0
    for what, step in (
        ("cams", both.our_cams),
        ("seeds", lambda: both.our_seeds(both.high_KHW)),
        ("boundary", lambda: edge_probability(both.irnet, both.x_13HW)),
        ("walk", lambda: both.our_walk(both.edge_hw)),
    ):
        result, taken = timed(what, step, side="ours")
        ours += taken
        if what == "seeds":
            check("seeds, share of unequal pixels", float((result.numpy() != seeds).mean()), 1e-4)
        if what == "walk":
            check("scores after the walk", relative(result, walked), 1e-3)
            unequal = float((both.label(result) != both.label(walked)).float().mean())
            check("labels, share of unequal pixels", unequal, 1e-3)
    features = both.plain.features(both.pair)
    one_view = class_activation_map(features, weights_CD=both.plain.cam_weights, classes=range(1, 21))
    check("CAM of one view", relative(one_view[0] + one_view[1].flip(-1), both.their_cam(both.pair)), 1e-4)
    ratio = theirs / ours
    checks["irn's seconds / ours"] = {"value": round(ratio, 1), "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}
    errors = [one for what, one in checks.items() if not what.startswith("irn")]
    return {
        "name": "irn_steps",
        "ratio": round(ratio, 1),
        "agreement": all(one["ok"] for one in errors),
        "error": max(one["value"] for one in errors),
        "checks": checks,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--irn", type=Path, default=os.environ.get("IRN_ROOT"), help="a clone of irn; or IRN_ROOT")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), help="height and width")
    parser.add_argument("--image", type=Path, help="a photograph; without it an image is drawn")
    options = parser.parse_args()
    if options.irn is None:
        print("NOT RUN: set IRN_ROOT to a clone of github.com/jiwoon-ahn/irn", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    picture = draw_picture()[0] if options.image is None else decode_image(options.image.read_bytes())
    height, width = options.size
    with torch.inference_mode():
        print(json.dumps(measure(Both(options.irn, np.ascontiguousarray(picture[:height, :width])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
