"""Pixels called background in images of unknown classes, in every layer of labels: none, by default.

    .venv/bin/python -m tests.benchmarks.unknown

Drawn images of which 8 or none of 200 classes are known, beside images that are fully known, through the stages of
`tests/recipes/unknown_classes.toml`. The rival is how the published systems read the same labels: every class
without a label is absent, so these images become background. The ratio is 1 if no such pixel is called background by
default or with `unknown_classes = "undecided"`, else 0.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tests.pipeline.chain import RECIPES, pretend_trained, run, tiny
from tests.pipeline.unknown_images import background_pixels, label_layers, write_images

CASES = {
    "left_out": [],
    "undecided": ["make_cams.unknown_classes=undecided", "make_segmenter_maps.unknown_classes=undecided"],
    "as published": ["defaults.unchecked=absent"],
}


def background_shares(overrides: list[str]) -> dict[str, float]:
    """Layer -> share of the pixels of images with unknown classes that it calls background; 0 without any pixel."""
    with tempfile.TemporaryDirectory() as runs:
        recipe = tiny(Path(runs), *overrides, path=RECIPES / "unknown_classes.toml")
        pretend_trained(recipe.instance("train_classifier"))
        run(recipe)
        found = {instance.name: background_pixels(instance) for instance in label_layers(recipe)}
    return {name: background / max(pixels, 1) for name, (background, pixels) in found.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), per_kind=2)
        os.environ["IMAGES_ROOT"] = folder
        shares = {name: background_shares(overrides) for name, overrides in CASES.items()}
    for name, of_layers in shares.items():
        print(name, {layer: round(share, 3) for layer, share in of_layers.items()})
    ours = max(*shares["left_out"].values(), *shares["undecided"].values())
    rival = max(shares["as published"].values())
    checks = {
        "largest share of background, ours": {"value": ours, "bar": 0.0, "ok": ours == 0.0},
        "largest share of background, as published": {"value": rival, "bar": 0.5, "ok": rival > 0.5},
    }
    agreement = all(check["ok"] for check in checks.values())
    summary = {"name": "unknown", "ratio": float(ours == 0), "agreement": agreement, "error": ours, "checks": checks}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
