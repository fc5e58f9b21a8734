"""Every kind of stage on 300 classes, whose label maps have 16 bits: a drawn data set in the layout of ImageNet-S."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from shards.id_colours import decode_id_png
from shards.reader import read_shard
from shards.records import Prediction, Record, Sample, label_map_of
from tests.pipeline.chain import TINY, run
from tests.shards.sources.imagenet_s_folder import SHOWN, make_imagenet_s
from wsss.__main__ import main
from wsss.ops.confusion import Scores, confusion_matrix
from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.pipeline.run import RunSummary
from wsss.report.tracked_submissions import submission_records

pytestmark = pytest.mark.slow

NUM_CLASSES, WIDE = 300, 65_535


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The tiny recipe on ImageNet-S's layout, run to its end."""
    folder = tmp_path_factory.mktemp("imagenet_s")
    root = make_imagenet_s(folder / "ImageNetS300", every_class=True)
    data = f'source = "imagenet_s"\nroot = "{root}"\nshard_size = 110\n'
    text = re.sub(r'source = "toy"\n.*?\n\n', f"{data}\n", TINY.read_text(), flags=re.DOTALL)
    text = text.replace("[stages.evaluate]\n", '[stages.evaluate]\nprotocol = "imagenet_s"\n')
    text = text.replace(
        "[stages.predict]\n", '[stages.predict]\nrefine = "crf"\ncrf_iterations = 2\nablation = ["none"]\n'
    )
    text = text.replace("[stages.submit]\n", '[stages.submit]\nformat = "imagenet_s"\nmethod = "drawn rectangles"\n')
    path = folder / "tiny_imagenet_s.toml"
    path.write_text(text)
    recipe = load_recipe(path, [f"runtime.runs={folder / 'runs'}"])
    run(recipe)
    return recipe


def records(recipe: Recipe, name: str) -> dict[str, Record]:
    layer = recipe.instance(name).layer
    return {record.key: record for shard in layer.shards() for record in read_shard(layer, shard)}


def test_every_label_map_has_16_bits(finished: Recipe) -> None:
    for name in ("build_shards", "make_seeds", "make_pseudo_labels", "predict"):
        maps = [label_map_of(record) for record in records(finished, name).values()]
        assert {label.dtype for label in maps if label is not None} == {np.dtype(np.uint16)}, name
        assert any(label is not None for label in maps)


def test_labels_are_the_image_s_class(finished: Recipe) -> None:
    samples = cast(dict[str, Sample], records(finished, "build_shards"))
    shown = set()
    for name, others in (("make_seeds", {0, WIDE}), ("make_pseudo_labels", {0})):
        for key, record in records(finished, name).items():
            label = label_map_of(record)
            assert label is not None and set(np.unique(label).tolist()) <= {*samples[key].classes, *others}
            shown |= set(np.unique(label).tolist())
    assert WIDE in shown and any(255 < class_id <= NUM_CLASSES for class_id in shown), "more than a byte holds"


def test_scores_are_those_of_the_whole_matrix(finished: Recipe) -> None:
    samples = cast(dict[str, Sample], records(finished, "build_shards"))
    total = torch.zeros(NUM_CLASSES + 1, NUM_CLASSES + 1, dtype=torch.int64)
    for key, record in records(finished, "predict").items():
        truth = samples[key].mask
        assert truth is not None and isinstance(record, Prediction) and record.ablation["none"].dtype == np.uint16
        labels = (torch.from_numpy(one.astype(np.int64)) for one in (truth, record.mask))
        total += confusion_matrix(*labels, num_classes=NUM_CLASSES + 1, ignore_index=WIDE)
    wanted, found = Scores.from_confusion(total), finished.instance("evaluate").run_record()
    assert found is not None and found.metrics["val.images"] == 2 * len(SHOWN)
    assert found.metrics["mean_iou"] == wanted.mean_iou and found.metrics["pixel_accuracy"] == wanted.pixel_accuracy
    assert found.metrics["imagenet_s.mean_iou"] == pytest.approx(wanted.mean_iou_all_classes, abs=1e-15)
    assert 0 <= found.metrics["imagenet_s.mean_iou_ml"] <= 1
    cam = finished.instance("evaluate_cam").run_record()
    assert cam is not None and cam.metrics["mean_iou"] > 0.1


def test_the_submission_is_what_the_evaluator_reads(finished: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    predicted = cast(dict[str, Prediction], records(finished, "predict"))
    record = finished.instance("submit").run_record()
    assert record is not None
    path = Path(record.artifacts["results.zip"])
    known = {one.name: made for one in finished.instances if (made := one.run_record()) is not None}
    (recorded,) = submission_records(finished, RunSummary(records=known), known)
    assert recorded.verdict == "in order"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert sorted(names) == sorted([*(f"{key}.png" for key in predicted), "method.txt"])
        for key, prediction in predicted.items():
            np.testing.assert_array_equal(decode_id_png(archive.read(f"{key}.png")), prediction.mask)
        assert archive.read("method.txt") == b"drawn rectangles\n"
    samples = ["--samples", str(finished.instance("build_shards").path), "--split", "val"]
    options = ["--format", "imagenet_s", "--num-classes", str(NUM_CLASSES), *samples]
    assert main(["check-submission", str(path), *options]) == 0
    assert capsys.readouterr().out.strip() == "in order"
    assert main(["shards", "lint", str(finished.instance("build_shards").path)]) == 0
