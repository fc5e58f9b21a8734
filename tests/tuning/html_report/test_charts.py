"""Figures as SVG."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from tuning.html_report.charts import Bar, Series, _ticks, bar_table, heat_table, line_chart


def figure(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{html}</div>")


def test_points_stand_where_their_values_are() -> None:
    drawn = figure(line_chart("t", [Series("a", [0, 50, 100], [0, 5, 10])], x_name="x", y_name="y"))
    line = drawn.find(".//svg/polyline")
    assert line is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert x1 - x0 == x2 - x1 > 0 and y0 - y1 == y1 - y2 > 0, "to the right, and upwards"
    labels = {text.text: text for text in drawn.findall(".//svg/text")}
    assert float(labels["100"].attrib["x"]) == x2 and float(labels["0"].attrib["y"]) >= y0


def test_values_that_are_not_finite_are_left_out_and_without_any_there_is_no_figure() -> None:
    html = line_chart("t", [Series("a", [0, 1, 2], [1.0, math.nan, 3.0])], x_name="x", y_name="y")
    assert len(re.findall(r"<polyline points=\"([^\"]*)\"", html)[0].split()) == 2
    assert line_chart("t", [Series("a", [0], [math.inf])], x_name="x", y_name="y") == ""


def test_text_from_outside_is_escaped() -> None:
    name = '<b>&"x'
    for html in (
        line_chart(name, [Series(name, [0, 1], [0, 1]), Series("b", [0, 1], [0, 1])], x_name=name, y_name=name),
        bar_table(name, [Bar(name, 0.5, 0.4, 0.6, name)], name=name, value=name, about=name),
        heat_table(name, [[0.5]], rows=[name], columns=[name]),
    ):
        figure(html.replace("&nbsp;", " "))
        assert "<b>" not in html


def test_the_numbers_of_a_long_curve_are_thinned_and_keep_the_last() -> None:
    html = line_chart("t", [Series("a", list(range(500)), [float(x) for x in range(500)])], x_name="x", y_name="y")
    rows = re.findall(r"<tr><td class=\"r\">(\d+)</td>", html)
    assert 50 < len(rows) <= 62 and rows[0] == "0" and rows[-1] == "499" and "every 9th value" in html


@pytest.mark.parametrize("number", [5, 60, 256])
def test_no_number_is_there_twice(number: int) -> None:
    xs = list(range(number))
    html = line_chart("t", [Series("a", xs, [float(x) for x in xs])], x_name="x", y_name="y")
    rows = re.findall(r"<tr><td class=\"r\">(\d+)</td>", html)
    assert len(rows) == len(set(rows)) and rows[-1] == str(number - 1)


def test_bars_are_as_long_as_their_values_and_a_missing_one_is_a_dash() -> None:
    html = bar_table("t", [Bar("cat", 0.25, 0.2, 0.3), Bar("dog", None, None, None)], name="class", value="IoU")
    assert 'width="25.00"' in html and "25.0 (20.0 to 30.0)" in html and 'x="20.00"' in html
    assert html.count("<svg") == 1 and "–" in html


def test_ticks_are_round_and_cover_the_values() -> None:
    for low, high in ((0, 1), (0.13, 0.14), (-5, 1000), (3, 3), (0, 0), (1e-6, 3e-6)):
        ticks = _ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 12
        assert ticks == sorted(ticks)
