"""One image through every stage of a finished run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.chain import tiny
from tests.pipeline.conftest import Finished
from wsss.contract.stage import Map
from wsss.report import explain as explained
from wsss.report.explain import ExplainError, draw_steps, explain
from wsss.report.explained_stages import Picture, Step


def steps_of_image(finished: Finished, key: str, monkeypatch: pytest.MonkeyPatch, path: Path) -> dict[str, Step]:
    drawn: list[Step] = []

    def keep(steps: list[Step], *, title: str) -> bytes:
        drawn.extend(steps)
        return draw_steps(steps, title=title)

    monkeypatch.setattr(explained, "draw_steps", keep)
    assert explain(finished.recipe, key, path) == []
    return {step.title.split(" ")[0]: step for step in drawn}


def test_every_stage_shows_its_pictures_and_values(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = steps_of_image(finished, "val_00001", monkeypatch, tmp_path / "image.png")
    layers = {one.name for one in finished.recipe.instances if isinstance(one.stage, Map)}
    assert set(steps) == {name for name in layers if "val" in finished.recipe.instance(name).stage.splits}
    captions = {name: [one.caption for one in step.pictures] for name, step in steps.items()}
    assert captions["build_shards"] == ["image", "truth (only for evaluation)"]
    walk = captions["make_scores"]
    assert walk[0].startswith("boundary map, largest 0.") and walk[1].startswith("walk, 2^0 = 1 steps")
    assert any("2^4 = 16 steps" in caption for caption in walk)
    before, after, confidence, errors = captions["make_pseudo_labels"]
    assert before.startswith("before the CRF, background below 0.25, mean IoU of this image")
    assert after.startswith("after the CRF, ") and "% of the pixels changed" in after
    assert confidence.startswith("confidence, mean 0.") or confidence.startswith("confidence, mean 1.")
    assert errors.startswith("errors")
    assert "background_threshold = 0.25" in steps["make_pseudo_labels"].values
    sizes = {one.pixels.shape for step in steps.values() for one in step.pictures}
    assert len(sizes) == 1, "every picture has the image's size"
    sheet = np.asarray(Image.open(tmp_path / "image.png"))
    assert sheet.shape[1] > 1000 and len(np.unique(sheet)) > 100


def test_an_unknown_key_and_a_stage_that_is_not_done_are_named(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match=r"no image 'val_0001' among the 24 of build_shards; did you mean val_0000"):
        explain(finished.recipe, "val_0001", tmp_path / "none.png")
    other = tiny(finished.recipe.runtime.runs, "make_pseudo_labels.background_threshold=0.9")
    (note, *_) = explain(other, "val_00001", tmp_path / "some.png")
    assert note.startswith("not done yet: make_pseudo_labels, ") and (tmp_path / "some.png").exists()
    with pytest.raises(ExplainError, match=r"the samples of tiny are not built yet; wsss run .*tiny\.toml builds them"):
        explain(tiny(tmp_path / "empty"), "val_00001", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_rows_of_pictures_are_wrapped_and_text_outside_ascii_is_drawn() -> None:
    picture = Picture("é" * 50, np.full((20, 10, 3), 90, dtype=np.uint8))
    heights = [
        Image.open(io.BytesIO(draw_steps([Step("é", "values " * 80, [picture] * count)], title="t"))).height
        for count in (1, explained.PER_ROW, explained.PER_ROW + 1)
    ]
    assert heights[0] == heights[1] < heights[2]
