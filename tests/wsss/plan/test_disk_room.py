"""A stage whose layer does not fit on the disk is refused before it starts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pipeline.chain import run, tiny
from wsss.__main__ import main
from wsss.contract.stage import Map
from wsss.pipeline.recipe import Recipe, RecipeError
from wsss.plan.disk_room import bytes_to_write, check_room


class Usage(NamedTuple):
    free: int


def with_free(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(number))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny(tmp_path_factory.mktemp("runs"))
    run(recipe, last="build_shards")
    return recipe


def test_samples_are_estimated_before_they_are_built(built: Recipe, tmp_path: Path) -> None:
    instance = built.instances[0]
    real = sum(path.stat().st_size for path in instance.path.glob("*.tar"))
    assert bytes_to_write(replace(instance, path=tmp_path / "none")) == pytest.approx(real, rel=0.2)
    assert bytes_to_write(instance) < 0.2 * real


def test_only_shards_that_are_not_finished_count(built: Recipe) -> None:
    instance = built.instance("make_cams")
    assert isinstance(instance.stage, Map)
    whole = bytes_to_write(instance)
    half = replace(instance, stage=replace(instance.stage, splits=("train",)))
    assert 0 < bytes_to_write(half) < whole


def test_a_stage_without_room_is_refused_with_both_numbers(built: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = built.instance("make_cams")
    needed = bytes_to_write(instance)
    with_free(monkeypatch, int(needed) + 1)
    assert check_room(built, instance) == ""
    with_free(monkeypatch, int(0.7 * needed))
    assert "make room and give the same command again" in check_room(built, instance)
    with_free(monkeypatch, int(0.3 * needed))
    with pytest.raises(
        RecipeError, match=r"^make_cams: its layer needs about \d+ kB on .*, where \d+ kB are free; make"
    ):
        check_room(built, instance)
    unchecked = replace(built, runtime=replace(built.runtime, disk_check=False))
    assert check_room(unchecked, instance) == ""
    assert check_room(built, built.instance("train_classifier")) == "", "it writes no layer"


def test_wsss_run_refuses_it_before_the_stage_starts(
    built: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_free(monkeypatch, 10)
    command = ["run", str(built.path), "--on", "local", "--to", "build_shards"]
    status = main([*command, "--set", f"runtime.runs={built.runtime.runs / 'other'}"])
    printed = capsys.readouterr()
    assert status == 1 and "build_shards: its layer needs about" in printed.err + printed.out
    assert not list((built.runtime.runs / "other" / "store").glob("*/*.tar"))
