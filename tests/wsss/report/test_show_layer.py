"""`wsss shards info|lint|preview` from the command line: what is printed, written, and the exit status."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from shards.layer import Layer
from shards.opened import opened
from shards.records import Sample
from shards.summary import summarise
from shards.taxonomy import ilsvrc_det_200
from shards.writer import write_shard
from tests.shards.example_records import sample, seed_record
from wsss.__main__ import main
from wsss.pictures.plots import draw_layer
from wsss.report.show_layer import look

FIVE = ("ant", "bear", "cat", "dog", "emu")


def agreeing(key: str, seed: int) -> Sample:
    """A sample whose mask shows its labels 2 and 5, and classes that nobody checked."""
    made = sample(key, seed)
    assert made.mask is not None
    return replace(made, unknown=(1, 3, 4), mask=made.mask % 6)


def layer_of(folder: Path, *, twice: bool = False, names: tuple[str, ...] = FIVE) -> Layer:
    layer = Layer(folder, "sample")
    write_shard(layer, "train-000000", [agreeing("a", 1), agreeing("b", 2)])
    write_shard(layer, "val-000000", [agreeing("c", 1 if twice else 3)])
    layer.complete(["train-000000", "val-000000"], classes=names)
    return layer


def test_info_draws_into_the_given_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = layer_of(tmp_path / "built", names=ilsvrc_det_200().names)
    assert main(["shards", "info", str(layer.path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{layer.path}: sample records\ntrain: 2 records") and "airplane" in printed
    assert not list(tmp_path.rglob("*.png"))
    assert main(["shards", "info", str(layer.path), "--pictures", str(tmp_path / "here")]) == 0
    picture = tmp_path / "here" / "built.info.png"
    assert capsys.readouterr().out == f"{printed}{picture}\n"
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 1500 and image.height > 1000


def test_info_counts_the_images_of_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = str(layer_of(tmp_path / "built").path)
    assert main(["shards", "info", layer]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("class ")]
    with opened(layer) as one:
        summary = summarise(one)
    assert printed == [
        f"class {c:3d}: {summary.present[c]:6d} images (train {summary.present_in['train'][c]}, "
        f"val {summary.present_in['val'][c]}, {summary.absent(c)} absent, {summary.unknown[c]} unknown) {FIVE[c - 1]}"
        for c in summary.classes()
    ]
    assert len(printed) == 5 and max(map(len, printed)) <= 80
    assert any(summary.present.values()) and any(summary.unknown.values())


def test_info_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, seeds = layer_of(tmp_path / "built").path, Layer(tmp_path / "seeds", "seed")
    write_shard(seeds, "val-000000", [seed_record("a")])
    seeds.complete(["val-000000"])
    assert main(["shards", "info", str(samples), str(seeds.path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(row["layer"], row["split"], row["records"]) for row in content["splits"]] == [
        (str(samples), "train", 2), (str(samples), "val", 1), (str(seeds.path), "val", 1),
    ]  # fmt: skip
    assert [row["name"] for row in content["classes"]] == list(FIVE)
    assert main(["shards", "info", str(samples), "--csv", "--table", "classes"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "layer,class_id,name,present,absent,unknown,in_train,in_val"
    assert main(["shards", "info", str(seeds.path), "--csv", "--table", "classes"]) == 1
    assert "--table classes: unknown table; there are splits" in capsys.readouterr().err


def test_histograms_tell_present_absent_and_unknown_apart(tmp_path: Path) -> None:
    with opened(str(layer_of(tmp_path / "built").path)) as one:
        summary = summarise(one)
    data = draw_layer(summary, title="built")
    assert data == draw_layer(summary, title="built")
    summary.unknown.clear()
    known = draw_layer(summary, title="built")

    def is_yellow(png: bytes) -> bool:
        return bool((np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == (0xF6, 0xD5, 0x5C)).all(2).any())

    assert is_yellow(data) and not is_yellow(known)


def test_info_of_records_without_images(tmp_path: Path) -> None:
    layer = Layer(tmp_path / "seeds", "seed")
    write_shard(layer, "val-000000", [seed_record("a")])
    layer.complete(["val-000000"])
    assert main(["shards", "info", str(layer.path), "--pictures", str(tmp_path)]) == 0
    assert (tmp_path / "seeds.info.png").stat().st_size > 1000


def test_masks_that_contradict_the_labels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = Layer(tmp_path / "built", "sample")
    write_shard(layer, "val-000000", [agreeing("a", 1), replace(agreeing("b", 2), classes=(2,), unknown=(1, 3, 4))])
    layer.complete(["val-000000"], classes=FIVE)
    line = "val: 0 of 2 masks lack a class that the image is labelled with, 1 show a class that it is not labelled with"
    assert main(["shards", "info", str(layer.path)]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert main(["shards", "lint", str(layer.path)]) == 0, "a few are no fault"
    assert capsys.readouterr().out.splitlines() == [line, f"{layer.path}: no fault found"]


def test_preview_goes_here_or_into_the_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(tmp_path / "built")
    monkeypatch.chdir(tmp_path)
    assert main(["shards", "preview", str(layer.path), "--pictures", "there"]) == 0
    assert main(["shards", "preview", "built"]) == 0
    assert (tmp_path / "there" / "built.preview.png").read_bytes() == (tmp_path / "built.preview.png").read_bytes()


def test_lint_tells_faults_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, leaky = layer_of(tmp_path / "sound").path, layer_of(tmp_path / "leaky", twice=True).path
    assert main(["shards", "lint", str(sound)]) == 0
    assert capsys.readouterr().out == f"{sound}: no fault found\n"
    assert main(["shards", "lint", str(leaky), str(sound)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("the same image 2 times, in train and val (an image used for evaluation must not be used")
    assert (second, third) == (f"{leaky}: 1 fault", f"{sound}: no fault found")


def test_a_run_whose_tars_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = layer_of(tmp_path / "built").path
    run = tmp_path / "run"
    run.mkdir()
    for path in built.glob("*.json"):
        (run / path.name).write_bytes(path.read_bytes())
    settings = {"samples.source": "shards", "samples.root": str(built), "samples.cache": "", "samples.size": 128}
    (run / "settings.json").write_text(json.dumps({"kind": "build_shards", "settings": settings}))
    assert main(["shards", "lint", str(run)]) == 0
    assert main(["shards", "preview", str(run), "--pictures", str(tmp_path)]) == 0
    (built / "val-000000.tar").unlink()
    assert main(["shards", "lint", str(run)]) == 1
    assert f"{built}/val-000000.tar: No such file" in capsys.readouterr().out


def test_progress_is_reported_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.report.show_layer.PLAIN_INTERVAL", 0.0)
    for terminal in (False, True):
        reported = io.StringIO()
        with opened(str(layer_of(tmp_path / "built").path)) as one:
            console = Console(file=reported, force_terminal=terminal, width=80)
            assert [line.is_fault for line in look(one, "lint", pictures=None, console=console)] == [False]
        assert ("built: 1 of 2 shards read\n" in reported.getvalue()) == (not terminal)
        assert "built" in reported.getvalue()
