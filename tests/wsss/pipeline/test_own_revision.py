"""A revision of some settings only: the fingerprints of the others stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss.pipeline.recipe import Recipe, load_recipe
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

TEXT = """
[recipe]
name = "two_heads"
seed = 3

[stages.build_shards]
source = "toy"
counts = { train = 5, val = 2 }

[stages.linear]
kind = "train_classifier"
pretrained = "none"

[stages.windows]
kind = "train_classifier"
pretrained = "none"
head = "stochastic"

[stages.units]
kind = "train_classifier"
pretrained = "none"
head = "stochastic"
stochastic_units = "units"

[stages.cams]
kind = "make_cams"
inputs = { classifier = "linear" }

[stages.stochastic_cams]
kind = "make_cams"
inputs = { classifier = "units" }
method = "stochastic"
"""


def fingerprints(folder: Path) -> dict[str, str]:
    path = folder / "two_heads.toml"
    path.write_text(TEXT)
    recipe: Recipe = load_recipe(path)
    return {one.name: one.fingerprint for one in recipe.instances}


def test_only_what_draws_masks_has_the_later_revision() -> None:
    trained = [{}, {"head": "stochastic", "stochastic_units": "units"}, {"head": "stochastic"}]
    assert [TrainClassifier(**one).own_revision() - TrainClassifier.revision for one in trained] == [0, 0, 1]
    assert TrainClassifier(head="stochastic", stochastic_drop_rate=0.0).own_revision() == TrainClassifier.revision
    assert MakeCams().own_revision() == MakeCams(method="grad_cam").own_revision() == MakeCams.revision
    assert MakeCams(method="stochastic").own_revision() == MakeCams.revision + 1


def test_fingerprints_follow_the_revision_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = fingerprints(tmp_path)
    monkeypatch.setattr(TrainClassifier, "own_revision", lambda stage: stage.revision)
    monkeypatch.setattr(MakeCams, "own_revision", lambda stage: stage.revision)
    before = fingerprints(tmp_path)
    changed = {name for name in now if now[name] != before[name]}
    assert changed == {"windows", "stochastic_cams"}
