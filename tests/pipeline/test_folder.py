"""The recipe for a user's own images, on twelve drawn pictures: labels in a table, and no mask anywhere."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from shards.sources.toy import ToySource
from wsss.__main__ import main
from wsss.pipeline.recipe import load_recipe
from wsss.report.show_recipe import state_of

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).resolve().parents[2] / "tuning" / "recipes" / "folder.toml"
NAMES = ["a [red]cat[/]", "Ba$$in", "x_1^2", "dog", ":bird:"]
NUM_TRAIN, NUM_VAL = 8, 4
TINY = {
    "defaults.encoder": "test_efficientnet",
    "defaults.pretrained": "none",
    "train_classifier.num_epochs": "1",
    "train_classifier.batch_size": "4",
    "train_classifier.crop_size": "64",
    "train_classifier.resize_long": "[48, 80]",
    "train_classifier.validation_size": "64",
    "make_cams.scales": "[1.0]",
    "make_seeds.crf_iterations": "1",
    "train_affinity.num_epochs": "1",
    "train_affinity.batch_size": "4",
    "train_affinity.crop_size": "64",
    "train_affinity.resize_long": "[48, 80]",
    "train_affinity.radius": "4",
    "make_scores.num_steps_log2": "2",
    "make_pseudo_labels.crf_iterations": "1",
    "train_segmenter.num_epochs": "1",
    "train_segmenter.batch_size": "4",
    "train_segmenter.crop_size": "64",
    "train_segmenter.resize_long": "[48, 80]",
    "train_segmenter.decoder_channels": "16",
    "predict.long_side": "64",
    "predict.scales": "[1.0]",
}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures with their table, and the variable that names their folder."""
    root = tmp_path / "[images]"
    (root / "photos").mkdir(parents=True)
    toy, rows = ToySource(counts={"train": NUM_TRAIN, "val": NUM_VAL}, seed=1, size=64), ["image,labels,split"]
    for split in ("train", "val"):
        for sample in map(toy.read, toy.list_split(split)):
            (root / "photos" / f"{sample.key}.jpg").write_bytes(sample.encoded)
            labels = "|".join(NAMES[c - 1] for c in sample.classes)
            rows.append(f'photos/{sample.key}.jpg,"{labels}",{split}')
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("IMAGES_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_images_without_masks_end_in_predictions_and_a_submission(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"runtime.runs={tmp_path}/runs", *(f"{name}={value}" for name, value in TINY.items())]
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", str(RECIPE), "--on", "local", *arguments]) == 0
    reported = capsys.readouterr()
    for name in ("evaluate_pseudo_labels", "evaluate"):
        assert f"skipped {name}: no image of split 'val' has a mask, so nothing can be measured" in reported.err
    assert "[red]cat[/]" in reported.out, "names of classes are printed as they are written"

    recipe = load_recipe(RECIPE, settings)
    (submission,) = recipe.results.glob("submit-*.zip")
    with zipfile.ZipFile(submission) as archive:
        assert len(archive.namelist()) == NUM_VAL
    known = json.loads(submission.with_suffix(".json").read_bytes())
    assert known["validation"] is None and known["num_images"] == NUM_VAL
    assert "not measured by any evaluate instance" in reported.err
    assert (recipe.results / "contact_sheet.png").is_file() and not (recipe.results / "results.md").exists()
    assert state_of(recipe.instance("evaluate")).startswith("skipped: no image of split 'val' has a mask")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train_segmenter.validate_every=1", "validate_every = 1 measures on masks of split 'val'"),
        ("train_segmenter.full_share=0.5", "full_share = 0.5 trains on masks of split 'train'"),
    ],
)
def test_what_needs_masks_is_refused_when_the_recipe_is_read(images: Path, setting: str, words: str) -> None:
    overrides = [setting, *(["recipe.supervision=semi"] if "full_share" in setting else [])]
    with pytest.raises(ValueError, match="no masks of build_shards are read: mask_folder is not set") as caught:
        load_recipe(RECIPE, overrides)
    assert words in str(caught.value)
