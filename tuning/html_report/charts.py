"""Figures as inline SVG: lines, points, and bars with intervals. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tuning.html_report.markup import attribute, data_table, scrolling, table_of_parts

NUM_COLOURS = 6
_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 26, 12, 48
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "4 2", "1 3")
MOST_ROWS = 60
"""Rows of the table of numbers under a figure; of more points, evenly spaced ones."""


@dataclass(frozen=True)
class Series:
    """A line, or points, with a name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; fractions in [0, 1]."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    note: str = ""


def line_chart(
    title: str, series: Sequence[Series], *, x_name: str, y_name: str, marks: Sequence[float] = (), points: bool = False
) -> str:
    """A figure with a line for each series (or its points), a legend, and its numbers in a table.

    `marks`: values of x with a vertical line. Values that are not finite are left out.
    """
    kept = [_finite(one) for one in series]
    kept = [one for one in kept if one.x]
    if not kept:
        return ""
    xs, ys = ([value for one in kept for value in getattr(one, axis)] for axis in ("x", "y"))
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        left, y = place(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, bottom = place(tick, y_ticks[0])
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{bottom:.1f}" x2="{x:.1f}" y2="{bottom + 4:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{tick:g}</text>')
    for mark in marks:
        x, _ = place(mark, y_ticks[0])
        line = f'x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"'
        parts.append(f'<line {line} stroke="var(--mark)" stroke-dasharray="4 3"/>')
    for number, one in enumerate(kept):
        parts.append(_drawn(number, [place(x, y) for x, y in zip(one.x, one.y, strict=True)], points=points))
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
    label = attribute(f"{title}: {y_name} over {x_name}")
    svg = f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
    named = "" if len(kept) == 1 else _legend([one.name for one in kept], points=points)
    unit = "" if title.endswith(y_name) else f" ({escape(y_name)})"
    return (
        f"<figure><figcaption><strong>{escape(title)}</strong>{unit}</figcaption>{svg}{''.join(parts)}"
        f"</svg>{named}</figure>{_numbers(title, kept, x_name)}"
    )


def _drawn(number: int, places: Sequence[tuple[float, float]], *, points: bool) -> str:
    colour, dash = f"var(--c{number % NUM_COLOURS})", _DASHES[number % len(_DASHES)]
    if points or len(places) == 1:
        return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'


def _legend(names: Sequence[str], *, points: bool) -> str:
    entries = []
    for number, name in enumerate(names):
        drawn = _drawn(number, [(4.0, 5.0)] if points else [(0.0, 5.0), (40.0, 5.0)], points=points)
        entries.append(f'<li><svg aria-hidden="true" viewBox="0 0 40 10">{drawn}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _numbers(title: str, series: Sequence[Series], x_name: str) -> str:
    xs = sorted({x for one in series for x in one.x})
    every = -(-len(xs) // MOST_ROWS)
    values = [dict(zip(one.x, one.y, strict=True)) for one in series]
    rows = [[x, *(of_series.get(x) for of_series in values)] for x in dict.fromkeys([*xs[::every], *xs[-1:]])]
    caption = title if every == 1 else f"{title}: every {every}th value"
    return data_table(caption, [x_name, *(one.name for one in series)], rows)


def bar_table(title: str, bars: Sequence[Bar], *, name: str, value: str, about: str = "") -> str:
    """Bars in a table, one row each: readable at any width, and by a screen reader as numbers."""
    head = [f'<th scope="col">{escape(name)}</th>', f'<th scope="col" class="r">{escape(value)}</th>']
    head.append('<th scope="col" class="bar">0 to 100, with interval</th>')
    head += [f'<th scope="col">{escape(about)}</th>'] if about else []
    body = []
    for bar in bars:
        text = "–" if bar.value is None else f"{100 * bar.value:.1f}"
        if bar.value is not None and bar.low is not None and bar.high is not None:
            text += f" ({100 * bar.low:.1f} to {100 * bar.high:.1f})"
        more = f"<td>{escape(bar.note)}</td>" if about else ""
        row = f'<th scope="row">{escape(bar.name)}</th><td class="r">{text}</td><td class="bar">{_bar(bar)}</td>{more}'
        body.append(f"<tr>{row}</tr>")
    return scrolling(table_of_parts(title, head, body), label=title, is_tall=len(bars) > 30)


def _bar(bar: Bar) -> str:
    if bar.value is None:
        return ""
    parts = [f'<rect x="0" y="3" width="{100 * bar.value:.2f}" height="10" fill="var(--c0)"/>']
    if bar.low is not None and bar.high is not None:
        low, high = 100 * bar.low, 100 * bar.high
        parts.append(f'<rect x="{low:.2f}" y="7" width="{high - low:.2f}" height="2" fill="var(--mark)"/>')
        parts += [f'<rect x="{end:.2f}" y="4" width="0.8" height="8" fill="var(--mark)"/>' for end in (low, high)]
    return f'<svg aria-hidden="true" viewBox="0 0 101 16" preserveAspectRatio="none">{"".join(parts)}</svg>'


def heat_table(title: str, share: Sequence[Sequence[float]], *, rows: Sequence[str], columns: Sequence[str]) -> str:
    """A confusion matrix as a table: fractions of each row's pixels, in percent; cells that round to 0 are empty."""
    head = ['<th scope="col">truth \\ prediction</th>', *(f'<th scope="col">{escape(name)}</th>' for name in columns)]
    body = []
    for name, values in zip(rows, share, strict=True):
        cells = [_heat(value) for value in values]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return scrolling(table_of_parts(title, head, body, kind="heat"), label=title)


def _heat(value: float) -> str:
    if math.isnan(value) or value < 0.005:
        return "<td></td>"
    # At most 45 %, so that text keeps its contrast in both modes.
    return f'<td style="background: rgba(var(--heat), {0.45 * value:.3f})">{100 * value:.0f}</td>'


def _finite(one: Series) -> Series:
    kept = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Series(one.name, [x for x, _ in kept], [y for _, y in kept])


def _ticks(low: float, high: float) -> list[float]:
    """Round values that cover the range, four to eight of them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]
