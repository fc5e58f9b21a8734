"""The tables of `wsss compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.wording import counted
from tuning.comparison import Compared
from tuning.lineage import ABSENT, differing_settings
from tuning.named_results import Result
from tuning.paired_comparison import LEVEL, RIGHT, SIGNIFICANT, Comparison, Difference
from wsss.report.setting_tables import value_cell
from wsss.report.tables import Cell, Column, Page, Shown, Table, percent, table_of

NUM_IMAGES = 10
"""Images in the table `images`; `image_scores`, which is only for CSV and JSON, has all."""
_WITH = Column("result", "against", role="name", wraps=True)
_NO_TRUTH = "nothing is measured without masks: the table `agreement` says how far the label maps agree"
_OTHER = {"B": "other", "B %": "other %", "B says": "other says", "pixels B %": "pixels other %"}
"""Titles of columns if several results are compared with the first."""


def comparison_page(compared: Compared, *, pictures: Sequence[Path] = ()) -> Page:
    """All tables of a comparison; `pictures`: files that were drawn."""
    first, *others = compared.results
    letters = "BCDEFGHIJKLMNOPQRSTUVWXYZ"
    heading = [f"A {first.label}", *(f"{letters[i % 25]} {other.label}" for i, other in enumerate(others))]
    heading += [f"pictures: {path}" for path in pictures] + list(compared.notes)
    named = [letters[i % 25] for i in range(len(others))]
    pairs = list(zip(named, compared.comparisons, strict=True))
    tables = {
        "overall": _overall(pairs, compared.results),
        "classes": _classes(pairs),
        "tests": _tests(pairs),
        "agreement": _agreement(pairs),
        "moved": _moved(pairs),
        "settings": _settings(named, compared),
        "lineage": _lineage(named, compared),
        "images": _images(pairs, most=NUM_IMAGES),
        "image_scores": replace(_images(pairs, most=None), data_only=True),
    }
    # Tables keep their names for --table even if a comparison without masks has nothing to put into them.
    return Page(heading=tuple(heading), tables=tables, main="classes" if pairs[0][1].has_truth else "agreement")


def _columns(pairs: Sequence[Any], *columns: Column) -> tuple[Column, ...]:
    """With the compared result as the first column if there are several, each of which is then called `other`."""
    if len(pairs) == 1:
        return (Column("", "against", role="data"), *columns)
    return (_WITH, *(replace(column, title=_OTHER.get(column.title, column.title)) for column in columns))


_DIFFERENCE = (
    Column("A", "a", right=True),
    Column("B", "b", right=True),
    Column("difference", "difference", right=True),
    Column("", "low", role="data"),
    Column("", "high", role="data"),
    Column(f"{LEVEL:.0%} interval", "interval", role="drawing", right=True),
    Column("p", "p_value", right=True),
)


def _difference_cells(one: Difference) -> tuple[Cell, ...]:
    change = percent(one.difference, digits=2, sign="+")
    both = None if one.low is None or one.high is None else f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
    p_value = None if one.p_value is None else Shown(one.p_value, f"{one.p_value:.4f}")
    return (percent(one.a, digits=2), percent(one.b, digits=2), change, one.low, one.high, both, p_value)


def _overall(pairs: Sequence[tuple[str, Comparison]], results: Sequence[Result]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, comparison in pairs:
        rows += [(letter, one.name, *_difference_cells(one)) for one in comparison.overall]
        if comparison.has_truth and letter == "B":
            rows += _other_metrics(results)
    title = f"Scores over {counted(pairs[0][1].num_images, 'image')}, in percent"
    columns = _columns(pairs, Column("score", "name", role="name"), *_DIFFERENCE)
    return table_of(title, columns, rows, notes=() if rows else (_NO_TRUTH,), data_only=not rows)


def _other_metrics(results: Sequence[Result]) -> Iterator[tuple[Cell, ...]]:
    """Boundary IoU as the evaluations recorded it: it is not measured again."""
    first, second = (result.record.metrics.get("boundary_iou") if result.record else None for result in results[:2])
    if first is not None and second is not None:
        yield ("B", "boundary IoU, recorded", *_difference_cells(Difference(name="", a=first, b=second)))


def _classes(pairs: Sequence[tuple[str, Comparison]]) -> Table:
    columns = _columns(
        pairs,
        Column("class", "name", role="name", wraps=True),
        *_DIFFERENCE,
        Column("images", "images", right=True),
        Column("", "verdict"),
    )
    rows = [
        (letter, one.name, *_difference_cells(one), one.images, _verdict(one))
        for letter, comparison in pairs
        for one in comparison.classes
    ]
    other = " (the other less A)" if len(pairs) > 1 else ""
    notes = (
        f"differences: B - A{other}; interval: paired bootstrap over the images; p: randomisation test over them, "
        f"corrected for the number of classes (Holm); better, worse: p at most {SIGNIFICANT}. images: those that show "
        "the class, or of which a result says so; with few of them the intervals are too narrow",
    )
    return table_of(
        "IoU of the classes, in percent", columns, rows, notes=notes if rows else (_NO_TRUTH,), data_only=not rows
    )


def _verdict(one: Difference) -> str:
    if not one.is_significant:
        return ""
    return "better" if (one.difference or 0) > 0 else "worse"


def _tests(pairs: Sequence[tuple[str, Comparison]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, one in pairs:
        if not one.has_truth:
            continue
        for better, word in ((True, "better"), (False, "worse")):
            found = one.significant(better=better)
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            rows.append((letter, f"classes significantly {word}", len(found), None, shown))
        images = Shown([one.better, one.worse], f"{one.better} / {one.worse}")
        right = Shown([one.only_b, one.only_a], f"{one.only_b} / {one.only_a}")
        mcnemar = f"McNemar's exact test; an image is right if its mean IoU is at least {RIGHT:.0%}"
        sign_test = "sign test over the mean IoU of each image"
        rows.append((letter, "images better / worse", images, _p(one.sign_test), sign_test))
        rows.append((letter, f"right only in {letter} / only in A", right, _p(one.mcnemar), mcnemar))
    columns = _columns(
        pairs,
        Column("", "what", role="name", wraps=True),
        Column("count", "count", right=True),
        Column("p", "p_value", right=True),
        Column("", "note", role="note"),
    )
    title, notes = "Is the difference more than chance?", () if rows else (_NO_TRUTH,)
    return table_of(title, columns, rows, notes=notes, data_only=not rows)


def _p(value: float) -> Shown:
    return Shown(value, f"{value:.4f}" if value >= 0.0001 else "< 0.0001")


def _agreement(pairs: Sequence[tuple[str, Comparison]]) -> Table:
    """How far the label maps agree; without masks this is the main table, with the classes."""
    columns = _columns(
        pairs,
        Column("", "name", role="name", wraps=True),
        Column("agreement %", "agreement", right=True),
        Column("", "low", role="data"),
        Column("", "high", role="data"),
        Column("interval", "interval", role="drawing", right=True),
        Column("pixels A %", "pixels_a", right=True),
        Column("pixels B %", "pixels_b", right=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for letter, comparison in pairs:
        one = comparison.agreement
        low, high = one.interval
        rows += [
            (letter, "pixels with the same label", percent(one.pixels, digits=2), None, None, None, None, None),
            (letter, "Cohen's kappa", Shown(one.kappa, f"{100 * one.kappa:.2f}"), None, None, None, None, None),
            (
                letter,
                "mean IoU of one with the other",
                percent(one.mean_iou, digits=2),
                low,
                high,
                f"{100 * low:.2f} to {100 * high:.2f}",
                None,
                None,
            ),
        ]
        if not comparison.has_truth:
            classes = zip(one.classes, one.class_iou, strict=True)
            ranked = sorted(classes, key=lambda each: 2.0 if each[1] is None else each[1])
            rows += [
                (
                    letter,
                    f"IoU of {each.name}",
                    percent(iou, digits=2),
                    None,
                    None,
                    None,
                    percent(each.a, digits=2),
                    percent(each.b, digits=2),
                )
                for each, iou in ranked
            ]
    note = "" if pairs[0][1].has_truth else "without masks: how far the label maps agree, not which are better"
    return table_of("Agreement of the label maps", columns, rows, notes=(note,) if note else ())


def _moved(pairs: Sequence[tuple[str, Comparison]]) -> Table:
    has_truth = pairs[0][1].has_truth
    columns = _columns(
        pairs,
        Column("truth" if has_truth else "A says", "truth", role="name", wraps=True),
        Column("predicted as" if has_truth else "B says", "prediction", role="name", wraps=True),
        Column("A %", "a", right=True),
        Column("B %", "b", right=True),
        Column("difference", "difference", right=True),
        Column("pixels", "pixels", right=True),
    )
    rows = [
        (
            letter,
            one.truth,
            one.prediction,
            percent(one.a),
            percent(one.b),
            percent(one.b - one.a, sign="+"),
            one.pixels,
        )
        for letter, comparison in pairs
        for one in comparison.moved
    ]
    title = "Confusion that moved, in percent of the true class's pixels"
    title = title if has_truth else "Where the label maps disagree, in percent of the pixels that A gives to a class"
    return table_of(title, columns, rows, notes=() if rows else ("no confusion changed",))


def _settings(named: Sequence[str], compared: Compared) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, aligned in zip(named, compared.alignments, strict=True):
        rows += [(letter, one.name, _value(one.a), _value(one.b)) for one in differing_settings(list(aligned))]
    columns = _columns(
        named,
        Column("setting", "setting", role="name", wraps=True),
        Column("A", "a", wraps=True),
        Column("B", "b", wraps=True),
    )
    note = (
        "no setting of a stage that both have differs"
        if all(compared.alignments)
        else "the settings of a zip are not known"
    )
    return table_of("Settings that differ", columns, rows, notes=() if rows else (note,))


def _value(value: Any) -> Cell:
    return None if value is ABSENT else value_cell(value)


def _lineage(named: Sequence[str], compared: Compared) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for letter, aligned in zip(named, compared.alignments, strict=True):
        for pair in aligned:
            a, b = (None if one is None else Shown(one.fingerprint, one.fingerprint[:8]) for one in (pair.a, pair.b))
            kind = pair.sides[0].kind
            rows.append((letter, pair.name, kind, a, b, "same" if pair.is_same else ""))
    columns = _columns(
        named,
        Column("instance", "instance", role="name", wraps=True),
        Column("kind", "kind"),
        Column("A", "a"),
        Column("B", "b"),
        Column("", "same"),
    )
    notes = () if rows else ("what led to the labels of a zip is not known",)
    return table_of("Lineage side by side", columns, rows, notes=notes, data_only=not rows)


def _images(pairs: Sequence[tuple[str, Comparison]], *, most: int | None) -> Table:
    columns = _columns(
        pairs,
        Column("image", "key", role="name", wraps=True),
        Column("A %", "a", right=True),
        Column("B %", "b", right=True),
        Column("difference", "difference", right=True),
        Column("other label %", "disagreement", right=True),
    )
    rows = [
        (
            letter,
            one.key,
            percent(one.a),
            percent(one.b),
            percent(None if one.a is None or one.b is None else one.b - one.a, sign="+"),
            percent(one.disagreement),
        )
        for letter, comparison in pairs
        for one in comparison.images[:most]
    ]
    return table_of("Images that changed most: mean IoU of the image, pixels with another label", columns, rows)
