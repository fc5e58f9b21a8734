"""Comparisons over drawn label maps, against a plain loop over the pixels."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from shards.images import encode_png
from tests.tuning.drawn_results import (
    BAD,
    CLASSES,
    GOOD,
    KEYS,
    SHAPE,
    fill,
    mask,
    rows_of_drawn,
    write_evaluation,
    write_predictions,
    write_samples,
)
from tuning.comparison import Compared, compare_results
from tuning.comparison_page import comparison_page
from tuning.comparison_pictures import changes, save_pictures
from tuning.leaderboard import Row
from tuning.named_results import CompareError
from wsss.comparing_arguments import COMPARED
from wsss.report.printing import print_page
from wsss.report.tables import records as values_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(autouse=True)
def rows(runs: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    found = rows_of_drawn(runs)
    monkeypatch.setattr("tuning.named_results.leaderboard", lambda *args, **options: found)
    return found


def compared(runs: Path, *names: str, common: bool = False) -> Compared:
    return compare_results(names, runs=runs, common=common)


def iou_by_loop(draw: object, class_id: int, keys: int = len(KEYS)) -> float:
    hits = union = 0
    for position in range(keys):
        truth, label = mask(position), draw(position)
        for row in range(SHAPE[0]):
            for column in range(SHAPE[1]):
                if truth[row, column] != 255:
                    a, b = truth[row, column] == class_id, label[row, column] == class_id
                    hits, union = hits + (a and b), union + (a or b)
    return hits / union


def test_scores_are_those_of_a_loop_over_the_pixels(runs: Path) -> None:
    (found,) = compared(runs, "bad", "good").comparisons
    names = ("background", *CLASSES)
    ious = {name: (iou_by_loop(BAD, i), iou_by_loop(GOOD, i)) for i, name in enumerate(names)}
    for one in found.classes:
        assert (one.a, one.b) == pytest.approx(ious[one.name])
    assert (found.overall[0].a, found.overall[0].b) == pytest.approx(
        tuple(np.mean([ious[name][side] for name in names]) for side in range(2))
    )
    assert found.num_images == len(KEYS) and sorted(one.key for one in found.images) == KEYS
    assert (found.better, found.worse) == (len(KEYS), 0)
    assert set(found.significant(better=True)) >= {"cat", "dog"} and not found.significant(better=False)
    for one in found.classes:
        assert one.low is not None and one.high is not None and one.difference is not None
        assert one.low <= one.difference <= one.high


def test_swapping_the_two_swaps_the_results(runs: Path) -> None:
    (one,) = compared(runs, "bad", "good").comparisons
    (other,) = compared(runs, "good", "bad").comparisons
    assert (one.better, one.worse, one.only_a, one.only_b) == (other.worse, other.better, other.only_b, other.only_a)
    assert [x.difference for x in one.classes] == pytest.approx([-(x.difference or 0) for x in other.classes])
    assert one.agreement.pixels == other.agreement.pixels and one.agreement.kappa == pytest.approx(
        other.agreement.kappa
    )


def test_confusion_that_moved_is_the_difference_of_the_shares(runs: Path) -> None:
    (found,) = compared(runs, "bad", "good").comparisons
    first, total = found.moved[0], 0
    counts = [0, 0]
    truth_id, label_id = (("background", *CLASSES).index(name) for name in (first.truth, first.prediction))
    for position in range(len(KEYS)):
        total += int((mask(position) == truth_id).sum())
        for side, draw in enumerate((BAD, GOOD)):
            counts[side] += int(((mask(position) == truth_id) & (draw(position) == label_id)).sum())
    assert (first.a, first.b, first.pixels) == pytest.approx(
        (counts[0] / total, counts[1] / total, counts[1] - counts[0])
    )


def test_three_results_are_each_compared_with_the_first(runs: Path) -> None:
    several = compared(runs, "bad", "good", "other")
    alone = compared(runs, "bad", "other").comparisons[0]
    assert [one.name for one in several.comparisons[1].overall] == [one.name for one in alone.overall]
    assert several.comparisons[1].classes[0].b == alone.classes[0].b
    table = values_of(comparison_page(several).tables["classes"])
    assert [row["against"] for row in table] == ["B"] * 4 + ["C"] * 4
    settings = values_of(comparison_page(several).tables["settings"])
    assert {"against": "B", "setting": "predict.scale", "a": 1, "b": 2} in settings


def test_results_over_different_images_are_refused_unless_asked(runs: Path) -> None:
    words = r"different images: good:evaluate .* 11 images of val, fewer.* 7 images.*; 7 in common.*--common"
    with pytest.raises(CompareError, match=words):
        compared(runs, "good", "fewer")
    found = compared(runs, "bad", "fewer", common=True)
    assert found.comparisons[0].num_images == 7
    background = next(one for one in found.comparisons[0].classes if one.name == "background")
    assert (background.a, background.b) == pytest.approx((iou_by_loop(BAD, 0, 7), iou_by_loop(GOOD, 0, 7)))
    assert "7 in common, on which they are compared" in found.notes[0]


def test_an_evaluation_of_a_list_is_compared_over_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "dev.txt"
    listed.write_text("".join(f"{key}\n" for key in KEYS[7:]))
    samples = write_samples(tmp_path, mask, keys=KEYS, classes=CLASSES)
    chosen: dict[str, object] = {"image_list": str(listed), "list_use": "except"}
    for recipe, digit, draw in (("bad", "1", BAD), ("good", "2", GOOD)):
        made = write_predictions(tmp_path, draw, keys=KEYS, samples=samples, recipe=recipe, digit=digit)
        write_evaluation(tmp_path, made, recipe=recipe, digit=digit, settings=chosen)
    monkeypatch.setattr("tuning.named_results.leaderboard", lambda *args, **options: rows_of_drawn(tmp_path))
    (one,) = compared(tmp_path, "bad", "good").comparisons
    background = next(found for found in one.classes if found.name == "background")
    assert one.num_images == 7
    assert (background.a, background.b) == pytest.approx((iou_by_loop(BAD, 0, 7), iou_by_loop(GOOD, 0, 7)))
    listed.unlink()
    with pytest.raises(CompareError, match=r"good:evaluate .*list that cannot be read: .*dev.txt"):
        compared(tmp_path, "good", "bad")


def test_without_masks_the_agreement_is_measured(runs: Path, tmp_path: Path) -> None:
    found = compared(runs, "test_a:predict", "test_b:predict")
    (one,) = found.comparisons
    same = np.mean([(BAD(p) == GOOD(p)).mean() for p in range(len(KEYS))])
    assert one.agreement.pixels == pytest.approx(same) and not one.has_truth and not one.classes
    cat = [(BAD(p) == 1, GOOD(p) == 1) for p in range(len(KEYS))]
    wanted = sum((a & b).sum() for a, b in cat) / sum((a | b).sum() for a, b in cat)
    assert one.agreement.class_iou[1] == pytest.approx(wanted)
    page = comparison_page(found)
    assert page.main == "agreement" and page.tables["classes"].data_only
    archives = []
    for name, draw in (("a.zip", BAD), ("b.zip", GOOD)):
        archives.append(str(tmp_path / name))
        with zipfile.ZipFile(archives[-1], "w") as archive:
            for position, key in enumerate(KEYS):
                archive.writestr(f"{key}.png", encode_png(draw(position)))
    of_zips = comparison_page(compared(runs, *archives))
    for name in COMPARED:
        print_page(of_zips, only=name, out=(out := io.StringIO()))
        assert len(out.getvalue().splitlines()) > 1, name
    print_page(of_zips, only="overall", out=(out := io.StringIO()))
    assert "nothing is measured without masks: the table `agreement`" in out.getvalue()
    print_page(of_zips, only="image_scores", out=(out := io.StringIO()))
    assert all(key in out.getvalue() for key in KEYS), "a table of data is printed if it is asked for"
    (zipped,) = compared(runs, *archives).comparisons
    assert zipped.agreement.pixels == one.agreement.pixels and zipped.agreement.kappa == one.agreement.kappa
    (mixed,) = compared(runs, "bad", archives[1]).comparisons
    assert mixed.overall == compared(runs, "bad", "good").comparisons[0].overall


def test_ids_of_pipelines_and_runs_name_a_result(runs: Path, rows: list[Row]) -> None:
    good = next(row for row in rows if row.recipe == "good")
    for name in (good.run_id, good.run_id[:8], good.pipeline, good.pipeline[:8], f"{good.pipeline[:8]}:evaluate"):
        assert compared(runs, "bad", name).results[1].recipe == "good"
    with pytest.raises(CompareError, match="are the same result"):
        compared(runs, "good", good.run_id)
    with pytest.raises(CompareError, match=r"no evaluation is called 'nothing'.*there are: bad:evaluate, fewer:eval"):
        compared(runs, "bad", "nothing")


def test_what_is_gone_is_named(runs: Path, tmp_path: Path) -> None:
    made = next((runs / "store").glob("predict-7*"))
    made.rename(tmp_path / "kept")
    try:
        with pytest.raises(CompareError, match="no evaluation is called 'gone:predict'"):
            compared(runs, "bad", "gone:predict")
    finally:
        (tmp_path / "kept").rename(made)
    shard = made / "val-000000.tar"
    shard.rename(tmp_path / "shard")
    try:
        with pytest.raises(CompareError, match=r"gone:predict \(7.*incomplete.*does not exist.*--recorded"):
            compared(runs, "bad", "gone:predict")
    finally:
        (tmp_path / "shard").rename(shard)
    with pytest.raises(CompareError, match=r"there is no file nowhere\.zip"):
        compared(runs, "bad", "nowhere.zip")


def test_the_pictures_show_who_is_right(runs: Path, tmp_path: Path) -> None:
    (path,) = save_pictures(compared(runs, "bad", "good"), tmp_path)
    assert path.name.startswith("compare-bad_evaluate-good_evaluate-2") and path.read_bytes()[1:4] == b"PNG"
    truth = np.array([[1, 1, 1, 255]], dtype=np.uint8)
    first, second = np.array([[1, 2, 0, 1]], dtype=np.uint8), np.array([[2, 1, 2, 1]], dtype=np.uint8)
    drawn = changes(np.full((1, 4, 3), 100, dtype=np.uint8), first, second, truth=truth)
    red, green, other, same = (tuple(pixel) for pixel in drawn[0].tolist())
    assert red[0] > 2 * red[1] and green[1] > 2 * green[0] and other[0] > other[2] and len(set(same)) == 1


def test_more_images_than_one_process_reads_are_counted_alike(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = compared(runs, "bad", "good").comparisons
    monkeypatch.setattr("tuning.pixel_counts.IN_ONE_PROCESS", 2)
    monkeypatch.setattr("tuning.pixel_counts._AT_ONCE", 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    (other,) = compared(runs, "bad", "good").comparisons
    assert one == other
