"""Objectives with masks of some images, through the whole chain: three stages of self-correction, FickleNet's loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.pipeline.chain import RECIPES, run, tiny
from wsss.contract.fit import weights_path
from wsss.pipeline.recipe import Recipe, RecipeError, supervision_behind
from wsss.pipeline.run import RunSummary
from wsss.report.contact_sheet import contact_sheet

pytestmark = pytest.mark.slow

SEMI = RECIPES / "semi.toml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunSummary]:
    recipe = tiny(tmp_path_factory.mktemp("semi") / "runs", path=SEMI)
    return recipe, run(recipe)


def test_every_stage_ran_and_its_terms_were_trained(done: tuple[Recipe, RunSummary]) -> None:
    recipe, summary = done
    assert summary.executed == [instance.name for instance in recipe.instances]
    terms = {
        "ficklenet": {"seed_background", "seed_foreground", "boundary", "full"},
        "train_ancillary": {"cross_entropy"},
        "train_correction": {"cross_entropy", "correction"},
        "conv": {"full", "weak", "correction"},
        "linear": {"full", "weak"},
    }
    known = {"epoch", "step", "loss", "images_per_second", "val.mean_iou", "val.pixel_accuracy"}
    for name, expected in terms.items():
        history = summary.records[name].tables["history"]
        assert set(history[-1]) - known == expected
        assert all(row[term] > 0 for row in history for term in expected)  # type: ignore[operator]
    assert summary.records["train_ancillary"].metrics["val.mean_iou"] > 0
    assert summary.records["evaluate"].metrics["val.mean_iou"] > 0


def test_the_third_stage_goes_on_from_the_second(done: tuple[Recipe, RunSummary]) -> None:
    recipe, _ = done
    second = load_file(weights_path(recipe.instance("train_correction")))
    third = load_file(weights_path(recipe.instance("conv")))
    assert {name.removeprefix("primary.") for name in second if name.startswith("primary.")} == set(third)
    network = recipe.instance("conv").stage.model(recipe.instance("conv"), pretrained=True)  # type: ignore[attr-defined]
    for name, value in network.state_dict().items():
        assert (value == second[f"primary.{name}"]).all(), name


def test_the_sheet_shows_every_prediction(done: tuple[Recipe, RunSummary]) -> None:
    recipe, _ = done
    sheet = contact_sheet(recipe)
    assert sheet is not None and sheet.startswith(b"\x89PNG")


def test_a_result_is_recorded_with_what_it_was_trained_with(done: tuple[Recipe, RunSummary]) -> None:
    """Of one recipe each instance has its own: what is made of image-level labels alone says so beside the others."""
    recipe, _ = done
    reported = {
        name: supervision_behind(recipe.instance(name)) for name in ("make_seeds", "predict_ficklenet", "predict_conv")
    }
    assert reported == {"make_seeds": "image", "predict_ficklenet": "semi", "predict_conv": "semi + boxes"}


def test_supervision_must_be_declared(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"supervision = 'image', but its stages train with 'semi' \(ficklenet\)"):
        tiny(tmp_path, "recipe.supervision=image", path=SEMI)


def test_lid_track_1_refuses_masks_and_boxes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'lid_track1' allows only image-level labels .* ficklenet .* with masks"):
        tiny(tmp_path, "recipe.rules=lid_track1", path=SEMI)
    text = SEMI.read_text()
    start, end = text.index("[stages.ficklenet]"), text.index("[stages.train_ancillary]")
    without = tmp_path / "without.toml"
    ficklenet = text.index("[stages.predict_ficklenet]")
    without.write_text(text[:start] + text[end:ficklenet] + text[text.index("[stages.evaluate]") :])
    with pytest.raises(RecipeError, match=r"train_ancillary \(train_ancillary\) trains with boxes; remove it"):
        tiny(tmp_path, "recipe.rules=lid_track1", path=without)
