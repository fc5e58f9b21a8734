"""Digests: they follow settings, revisions and shipped lists, and nothing of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tuning.tables import digests
from tuning.tables.digests import Origin, image_set, origin, recipe_without_data
from wsss.stages.make_scores import MakeScores


@pytest.fixture(autouse=True)
def _read_again() -> Iterator[None]:
    recipe_without_data.cache_clear()
    yield
    recipe_without_data.cache_clear()


def origin_of(instance: str, *overrides: str, recipe: str = "voc_labels") -> Origin:
    return origin(recipe_without_data(recipe, overrides).instance(instance))


def test_equal_with_and_without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    without = origin_of("evaluate_walk")
    recipe_without_data.cache_clear()
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    assert origin_of("evaluate_walk") == without
    assert origin_of("evaluate_walk", f"runtime.runs={tmp_path}") == without


def test_a_setting_changes_what_reads_it_and_nothing_else() -> None:
    changed, before = (origin_of("evaluate_walk", *words) for words in (["make_scores.beta=7.0"], []))
    assert changed.digest != before.digest
    assert {name for name in before.stages if changed.stages[name] != before.stages[name]} == {"make_scores"}
    assert origin_of("evaluate_cam", "make_scores.beta=7.0") == origin_of("evaluate_cam")


def test_a_revision_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = origin_of("evaluate_walk")
    monkeypatch.setattr(MakeScores, "revision", MakeScores.revision + 1)
    recipe_without_data.cache_clear()
    now = origin_of("evaluate_walk")
    assert now.digest != before.digest
    assert now.stages["make_scores"].split()[1] == str(int(before.stages["make_scores"].split()[1]) + 1)
    assert now.stages["make_scores"].split()[2] == before.stages["make_scores"].split()[2], "the settings are the same"


def test_a_shipped_list_changes_the_digest_and_its_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    instance = recipe_without_data("voc_labels", ()).instance("evaluate_walk")
    before, images = origin(instance), {split: image_set(instance, split) for split in ("train", "val")}
    for split in ("train", "val"):
        text = (digests.LISTS / f"voc_animals_{split}.txt").read_text()
        (tmp_path / f"voc_animals_{split}.txt").write_text(text if split == "train" else text[:-1])
    monkeypatch.setattr(digests, "LISTS", tmp_path)
    assert origin(instance).digest != before.digest
    assert image_set(instance, "train") == images["train"] != images["val"] != image_set(instance, "val")


def test_lists_of_different_instances_are_compared_by_content() -> None:
    recipe = recipe_without_data("voc_classifiers", ())
    plain, skewed = recipe.instance("evaluate_kept"), recipe.instance("skewed_none")
    assert image_set(plain, "val") == image_set(skewed, "val")
    assert image_set(plain, "train") != image_set(skewed, "train")
