"""From run records to pages: what is written, what is refused, and that nothing is half-written."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.tuning.tables.checkout import PAGE, TABLE, checkout, contents, measure, measured_checkout
from tuning.tables.__main__ import main
from tuning.tables.digests import recipe_without_data

OLDER = '[measured_before]\n2026-11-29 = "The walk of that day was shorter."\n[[rows]]'


def refusal(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a refused command, which must leave every file as it was."""
    before = contents(root)
    assert main(list(arguments), root=root) == 1
    assert contents(root) == before, "a refused command has written something"
    return capsys.readouterr().err


def change(root: Path, old: str, new: str, *, path: str = "tuning/tables/declared/steps.toml") -> None:
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new, 1))


def test_a_table_is_written_from_run_records_and_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    assert (root / "README.md").read_text() == (
        "# Page\n\n<!-- table: steps -->\n| step | val | seed 2 |\n| --- | ---: | ---: |\n"
        "| CAM | 50.0 (40.0 to 60.0) |  |\n| walk | **62.5** | 61.2 |\n\n"
        "Measured on 2026-11-29 at commit 0123456789 by `wsss demo`.\n<!-- /table -->\n\nText after.\n"
    )
    before = contents(root)
    assert str(tmp_path) not in "".join(before.values())
    assert "written: tuning/tables/measured/steps.json, README.md" in capsys.readouterr().out
    for arguments in ([], ["--check"], ["--runs", str(tmp_path / "runs")]):
        assert main(arguments, root=root) == 0
        assert contents(root) == before


def test_rows_of_several_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = TABLE.replace('sources.measured = "evaluate_walk"', 'sources.measured = "self_training:evaluate"')
    root, runs = checkout(tmp_path / "root", declared={"steps": changed}), tmp_path / "runs"
    measure(runs, "evaluate_cam", val__mean_iou=0.5, val__mean_iou_low=0.4, val__mean_iou_high=0.6)
    measure(runs, "evaluate", recipe="self_training", val__mean_iou=0.625)
    measure(runs, "evaluate_walk", "recipe.seed=2", val__mean_iou=0.612)
    assert main(["--runs", str(runs)], root=root) == 0
    assert "| walk | **62.5** | 61.2 |" in (root / "README.md").read_text()
    stored = json.loads((root / "tuning/tables/measured/steps.json").read_text())
    assert [one["instance"] for one in stored] == ["evaluate_cam", "self_training:evaluate", "evaluate_walk"]
    change(root, "self_training:evaluate", "self_training:evaluat")
    assert "table steps: recipe self_training: unknown instance 'evaluat'" in refusal(root, capsys)
    change(root, "self_training:evaluat", "self_trainin:evaluate")
    assert "table steps: recipe self_trainin: " in refusal(root, capsys)


def test_stored_results_have_what_they_belong_to(tmp_path: Path) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    cam, walk, second = json.loads((root / "tuning/tables/measured/steps.json").read_text())
    assert (cam["instance"], walk["set"], second["set"]) == ("evaluate_cam", [], ["recipe.seed=2"])
    assert cam["metrics"]["val.iou.fin"] == 0.25
    assert len({one["digest"] for one in (cam, walk, second)}) == 3
    assert cam["stages"]["train_classifier"].startswith("train_classifier ")
    assert (cam["commit"], cam["finished"]) == ("0123456789abcdef", "2026-11-29")


def test_a_new_run_replaces_the_stored_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    measure(tmp_path / "later", "evaluate_cam", val__mean_iou=0.7)
    assert main(["--runs", str(tmp_path / "later")], root=root) == 0
    assert "steps: 1 of 3 results in" in capsys.readouterr().out
    assert "| CAM | **70.0** |" in (root / "README.md").read_text()
    assert "| walk | 62.5 | 61.2 |" in (root / "README.md").read_text()


def test_a_result_that_was_never_measured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path / "root")
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5)
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "table steps: evaluate_walk is not measured" in message and "run `wsss demo`" in message
    assert "no such folder" in refusal(root, capsys, "--runs", str(tmp_path / "none"))


def test_another_recipe_than_the_measured_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    # The stored result's settings are those of the recipe; the same as if the recipe had been changed since.
    change(root, '"stages": {"build_shards": "build_shards 1 ', '"stages": {"build_shards": "build_shards 0 ',
           path="tuning/tables/measured/steps.json")  # fmt: skip
    change(root, '"digest": "', '"digest": "0', path="tuning/tables/measured/steps.json")
    message = refusal(root, capsys, "--check")
    assert "evaluate_cam was measured on 2026-11-29 with other settings or code" in message
    assert "build_shards has revision 1 (then 0)" in message and "measured_before of declared/steps.toml" in message


def test_an_older_result_says_so_under_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    stored = root / "tuning/tables/measured/steps.json"
    entries = json.loads(stored.read_text())
    entries[2] |= {"digest": "0" * 12, "stages": {**entries[2]["stages"], "make_scores": "make_scores 0 000000000000"}}
    stored.write_text(json.dumps(entries))
    assert "make_scores has revision" in refusal(root, capsys)
    change(root, "[[rows]]", OLDER)
    assert main([], root=root) == 0
    text = (root / "README.md").read_text()
    assert "**Older than the recipe in this tree** (walk): measured on 2026-11-29 at commit 0123456789." in text
    assert "The walk of that day was shorter. Changes since then: settings of make_scores, make_scores has" in text
    assert "Measured on 2026-11-29 at commit 0123456789 by `wsss demo` (CAM; walk)." in text

    # Measured again: the reason is no longer needed, and is no cover for what becomes older later.
    assert main(["--runs", str(tmp_path / "runs")], root=root) == 0
    assert "no older result of 2026-11-29; remove" in capsys.readouterr().out
    assert "**Older" not in (root / "README.md").read_text()
    assert "no older result of 2026-11-29; remove" in refusal(root, capsys, "--check")


def test_a_result_without_a_run_record_is_never_of_this_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    stored = root / "tuning/tables/measured/steps.json"
    entries = [entry | {"digest": "", "fingerprint": "", "commit": ""} for entry in json.loads(stored.read_text())]
    stored.write_text(json.dumps(entries))
    assert "its run record was not kept" in refusal(root, capsys)
    change(root, "[[rows]]", OLDER)
    assert main([], root=root) == 0
    assert "**No run record**: measured on 2026-11-29. The walk of" in (root / "README.md").read_text()


def test_a_result_table_has_the_rows_of_wsss_results(tmp_path: Path) -> None:
    table = 'page = "README.md"\nrecipe = "toy"\ncommand = "wsss demo"\nlayout = "results"\n'
    root = checkout(tmp_path / "root", declared={"steps": table + 'instances = ["evaluate_cam", "evaluate_seeds"]\n'})
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5, val__threshold_a=0.25, val__threshold_b=0.5,
            train__mean_iou=0.25)  # fmt: skip
    measure(tmp_path / "runs", "evaluate_seeds", train__coverage=0.5, train__precision=0.75)
    assert main(["--runs", str(tmp_path / "runs")], root=root) == 0
    text = (root / "README.md").read_text()
    assert "| step | images | labels given | mean IoU |  |\n" in text, "no run record has an accuracy"
    assert "| CAM | train | yes | 25.0 |  |\n" in text
    assert "| CAM | val | yes | 50.0 | thresholds 0.250 and 0.500, two-fold |\n" in text
    assert "| seeds | train | yes |  | 50.0% of the pixels are seeds, 75.0% of them correct |\n" in text


def test_check_finds_figures_changed_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    change(root, "| walk | **62.5**", "| walk | **66.5**", path="README.md")
    assert "README.md would change; run `make tables`" in refusal(root, capsys, "--check")
    assert main([], root=root) == 0
    assert "**62.5**" in (root / "README.md").read_text()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PAGE.replace("<!-- /table -->\n", ""), "table steps has no <!-- /table -->"),
        (PAGE.replace("<!-- table: steps -->\n", ""), "line 3: <!-- /table --> without a beginning"),
        ("# Page\n", "README.md has no <!-- table: steps -->"),
        (PAGE + PAGE, "table steps is marked twice"),
        (PAGE.replace("steps", "other"), "table other has no declaration for this page; there are steps"),
        (PAGE.replace("<!-- /table", "<!-- table: steps -->\n<!-- /table"), "inside table steps"),
        (PAGE + "\n| a | b |\n|---|:-:|\n| 1 | 2 |\n", "the table 'a | b' is not written from run records"),
    ],
)
def test_wrong_marks_are_refused(page: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    (root / "README.md").write_text(page)
    assert message in refusal(root, capsys)


def test_other_tables_need_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    other = '[[tables]]\npage = "README.md"\nheader = "a | b"\nreason = "published figures"\n'
    (root / "tuning/tables/not_measured.toml").write_text(other)
    assert "README.md has no table 'a | b'" in refusal(root, capsys)
    page = (root / "README.md").read_text()
    (root / "README.md").write_text(f"{page}\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n| c |\n|---|\n```\n")
    assert main(["--check"], root=root) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "second" },', 'source = "third" },', "row 'walk' has a source 'second' that no column reads"),
        ('"val.mean_iou", show', '"val.f1", show', "the run record of evaluate_cam has no metric val.f1; it has"),
        ('"evaluate_cam"', '"evaluate_camera"', "unknown instance 'evaluate_camera'"),
        ('recipe = "toy"', 'recipe = "toi"', "the recipe does not exist"),
        ('text = "CAM"', 'text = ["CAM", "2"]', "row 'CAM' has 2 texts for 1 columns of text"),
        ('text = "CAM"', 'text = "CAM"\nof = "sum"', "there is no single row 'sum' to divide by"),
        ("columns = [", "colums = [", "steps: unknown setting 'colums'; did you mean columns"),
        ('command = "wsss demo"', 'command = "wsss demo"\nlayout = "results"', "has fixed columns and rows"),
        ('page = "README.md"', 'page = "wsss/README.md"', "steps.page"),
    ],
)
def test_wrong_declarations_are_refused(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = measured_checkout(tmp_path / "root", tmp_path / "runs")
    change(root, old, new)
    refused = refusal(root, capsys)
    assert message in refused and "steps" in refused


def test_a_row_that_mixes_image_sets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = TABLE.replace('set = ["recipe.seed=2"]', 'set = ["build_shards.size=96"]')
    root = checkout(tmp_path / "root", declared={"steps": table})
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5, val__images=80.0)
    measure(tmp_path / "runs", "evaluate_walk", val__mean_iou=0.6, val__images=80.0)
    measure(tmp_path / "runs", "evaluate_walk", "build_shards.size=96", val__mean_iou=0.7)
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "row 'walk' mixes image sets: 'val' is measured on val of build_shards (" in message
    assert ", 80 images), 'seed 2' on val of build_shards (" in message


def test_a_row_that_mixes_numbers_of_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path / "root")
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5)
    measure(tmp_path / "runs", "evaluate_walk", val__mean_iou=0.6, val__images=80.0)
    measure(tmp_path / "runs", "evaluate_walk", "recipe.seed=2", val__mean_iou=0.7, val__images=40.0)
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "80 images), 'seed 2'" in message and "40 images)" in message


def test_a_column_that_mixes_image_sets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path / "root")
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5, val__images=80.0)
    measure(tmp_path / "runs", "evaluate_walk", val__mean_iou=0.6, val__images=40.0)
    measure(tmp_path / "runs", "evaluate_walk", "recipe.seed=2", val__mean_iou=0.7, val__images=40.0)
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "column 'val' mixes image sets: 'CAM' is measured on val of build_shards (" in message
    assert ", 80 images), 'walk' on val of build_shards (" in message and "40 images); use two tables" in message


def test_a_share_is_of_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share = TABLE.replace('source = "second" }', 'show = "share" }').replace(
        'text = "walk"', 'text = "walk"\nof = "CAM"'
    )
    share = share.replace('sources.second = { instance = "evaluate_walk", set = ["recipe.seed=2"] }\n', "")
    root = checkout(tmp_path / "root", declared={"steps": share})
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5)
    measure(tmp_path / "runs", "evaluate_walk", val__mean_iou=0.4)
    assert main(["--runs", str(tmp_path / "runs")], root=root) == 0
    assert "| walk | 40.0 | 80 % of 50.0 |" in (root / "README.md").read_text()
    change(
        root, 'measured = "evaluate_walk"', 'measured = { instance = "evaluate_walk", set = ["build_shards.size=96"] }'
    )
    measure(tmp_path / "runs", "evaluate_walk", "build_shards.size=96", val__mean_iou=0.7)
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "column 'val' mixes image sets" in message
    change(root, '{ title = "val", metric = "val.mean_iou", show = "interval", best = true },', "")
    message = refusal(root, capsys, "--runs", str(tmp_path / "runs"))
    assert "'walk' and 'CAM' are compared, but are measured on different images" in message


def test_a_difference_of_two_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = TABLE.replace('source = "second" }', 'source = "second", show = "difference", less = "measured" }')
    root = checkout(tmp_path / "root", declared={"steps": table})
    measure(tmp_path / "runs", "evaluate_cam", val__mean_iou=0.5)
    measure(tmp_path / "runs", "evaluate_walk", val__mean_iou=0.6)
    measure(tmp_path / "runs", "evaluate_walk", "recipe.seed=2", val__mean_iou=0.5)
    assert main(["--runs", str(tmp_path / "runs")], root=root) == 0
    assert "| CAM | 50.0 |  |\n| walk | **60.0** | -10.0 |" in (root / "README.md").read_text()
    measure(tmp_path / "more", "evaluate_walk", "recipe.seed=2", val__mean_iou=0.75)
    assert main(["--runs", str(tmp_path / "more")], root=root) == 0
    assert "| walk | **60.0** | +15.0 |" in (root / "README.md").read_text()
    change(root, ', less = "measured"', "")
    assert "column 'seed 2': show = 'difference' and less are only given together" in refusal(root, capsys)


def test_photographs_are_looked_for_only_with_data_and_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOC_ROOT", raising=False)
    table = TABLE.replace('recipe = "toy"', 'recipe = "voc_animals"\nweights = "w.safetensors"')
    root = checkout(tmp_path / "root", declared={"steps": table})
    (tmp_path / "runs").mkdir()
    arguments = ["--runs", str(tmp_path / "runs")]
    assert "evaluate_cam is not measured" in refusal(root, capsys, *arguments)
    assert main(arguments, root=root) == 1
    assert "it needs --weights FOLDER, with w.safetensors in it" in capsys.readouterr().out
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert main([*arguments, "--weights", str(tmp_path)], root=root) == 1
    assert "VOC_ROOT, which is not set" in capsys.readouterr().out


def test_weights_are_recorded_and_no_part_of_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "base.toml").write_text(
        '[recipe]\nname = "base"\n[stages.build_shards]\nsource = "toy"\ncounts = { train = 8, val = 4 }\n'
        '[stages.train_classifier]\n[stages.make_cams]\n[stages.evaluate_cam]\nkind = "evaluate"\n'
        'inputs = { records = "make_cams" }\n'
    )
    monkeypatch.setattr("tuning.tables.digests.RECIPES", recipes)
    monkeypatch.setattr("tests.tuning.tables.checkout.RECIPES", recipes)
    recipe_without_data.cache_clear()
    table = (
        'page = "README.md"\nrecipe = "base"\nweights = "w.safetensors"\ncommand = "wsss run base"\n'
        'columns = [{ title = "step" }, { title = "val", metric = "val.mean_iou" }]\n'
        '[[rows]]\ntext = "CAM"\nsources.measured = "evaluate_cam"\n'
    )
    root, runs = checkout(tmp_path / "root", declared={"steps": table}), tmp_path / "runs"
    digests = set()
    for content, figure in ((b"one", 0.5), (b"two", 0.25)):
        weights = tmp_path / "w.safetensors"
        weights.write_bytes(content)
        measure(runs, "evaluate_cam", f"defaults.pretrained={weights}", recipe="base", val__mean_iou=figure)
        assert main(["--runs", str(runs), "--weights", str(tmp_path)], root=root) == 0
        assert f"| CAM | {100 * figure} |" in (root / "README.md").read_text()
        (entry,) = json.loads((root / "tuning/tables/measured/steps.json").read_text())
        assert entry["weights"] == {"w.safetensors": sha256(content).hexdigest()}
        digests.add(entry["digest"])
    assert len(digests) == 1
    recipe_without_data.cache_clear()
