"""Region-CAM and self-similarity: the time that they add to CAM, in passes of the encoder, one thread.

    .venv/bin/python -m tests.benchmarks.region_cam

The work: maps of one image of 375 x 500 with one, two and three classes, in one view and its mirror image, by
make_cams's own maker of maps, as it runs on CPUs: the network's norms folded and its weights packed. A pass of the
encoder is one of the network as it is, of the same two views.

`ratio`: an N x N matrix of similarities of the finest stage, made and multiplied by the evidence, against the product
with one vector per class, ResNet-50; `error`: the largest difference of both.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shards.records import Sample
from wsss.models.classifier import Classifier
from wsss.models.encoder import EncoderSpec, build_encoder
from wsss.models.inference import for_inference
from wsss.ops.feature_spread import spread_evidence
from wsss.stages.classifier.cam_maker import CamMaker
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

SIZE, NUM_CLASSES, REPETITIONS, FINEST = (375, 500), 20, 5, 4
CLASSES = {"one class": (3,), "two classes": (3, 7), "three classes": (3, 7, 12)}
ENCODERS = {"MobileNetV2": "mobilenetv2_100", "ResNet-50": "resnet50"}
PASSES_BAR, LARGEST_ERROR, RATIO_BAR = 2.0, 1e-5, 20.0


def seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU seconds of each call, medians of alternating repetitions after a first one."""
    for call in calls.values():
        call()
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(REPETITIONS)]
    return {name: statistics.median(one[name] for one in times) for name in calls}


def classifier(encoder: str) -> Classifier:
    torch.manual_seed(0)
    spec = EncoderSpec(name=encoder, output_stride=16, dilated=False, pretrained="none")
    return Classifier(build_encoder(spec), num_classes=NUM_CLASSES, head="linear").eval()


def folded(network: Classifier, *, gradients: bool) -> Classifier:
    """As make_cams folds it."""

    def look(one: Classifier, images: Tensor) -> tuple[Tensor, ...]:
        last, stages = one.stages(images, finest_stride=FINEST)
        return (*stages, last)

    return for_inference(network, look=look, gradients=gradients)


def added_passes(encoder: str, *, classes: tuple[int, ...]) -> dict[str, float]:
    """Method -> passes of the encoder that its maps of these classes take beyond CAM's."""
    network, trained = classifier(encoder), TrainClassifier(encoder=encoder, pretrained="none")
    image = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    sample = Sample(key="a", encoded=b"", size=SIZE, classes=classes, mask=None, position=0)
    views = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))

    def maps(method: str, one: Classifier) -> Callable[[], object]:
        stage = MakeCams(method=method, scales=(1.0,), finest_stride=FINEST)  # type: ignore[arg-type]
        maker = CamMaker(stage, one, trained, learned=range(1, NUM_CLASSES + 1), seed=0)
        return lambda: maker.cams([sample], [image])

    def one_pass() -> None:
        with torch.no_grad():
            network.features(views)

    fast, differentiable = folded(network, gradients=False), folded(network, gradients=True)
    found = medians(
        {
            "pass": one_pass,
            "cam": maps("cam", fast),
            "self_similarity": maps("self_similarity", fast),
            "region_cam": maps("region_cam", differentiable),
        }
    )
    return {method: (found[method] - found["cam"]) / found["pass"] for method in ("region_cam", "self_similarity")}


def against_the_matrix() -> tuple[float, float]:
    """(times the N x N matrix's time, largest difference) for the finest stage of ResNet-50 and three classes."""
    generator = torch.Generator().manual_seed(2)
    features, evidence = torch.rand(256, 94, 125, generator=generator), torch.rand(3, 94, 125, generator=generator)

    def matrix() -> Tensor:
        unit_DN = functional.normalize(features.flatten(1) - features.mean(dim=(1, 2))[:, None], dim=0)
        weights_KN = evidence.flatten(1) / evidence.flatten(1).sum(dim=1, keepdim=True)
        return (weights_KN @ (unit_DN.T @ unit_DN)).relu().reshape(evidence.shape)

    def ours() -> Tensor:
        return spread_evidence(evidence, features_Dhw=features)

    error = float((matrix() - ours()).abs().max())
    times = medians({"matrix": matrix, "ours": ours})
    return times["matrix"] / times["ours"], error


def main() -> None:
    torch.set_num_threads(1)
    ratio, error = against_the_matrix()
    checks = {"times the matrix's speed": {"value": ratio, "bar": RATIO_BAR, "ok": ratio >= RATIO_BAR}}
    for name, encoder in ENCODERS.items():
        for number, classes in CLASSES.items():
            for method, passes in added_passes(encoder, classes=classes).items():
                what = f"{name}: passes of the encoder that {method} adds to cam, {number}"
                checks[what] = {"value": passes, "bar": PASSES_BAR, "ok": passes <= PASSES_BAR}
    report = {
        "name": "region_cam",
        "ratio": ratio,
        "agreement": error < LARGEST_ERROR,
        "error": error,
        "checks": checks,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
