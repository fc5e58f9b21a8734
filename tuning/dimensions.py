"""Dimensions of a search: a range of numbers, a list of choices, or cases that set several settings together."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import Field

from wsss.contract.settings import settings

Number = int | float
SIGNIFICANT_DIGITS = 4
"""Digits of a value from a range without a step, so that a person can read and type it."""


@settings
class Range:
    """Numbers from `low` to `high`, both included; only whole numbers are tried if both are whole."""

    low: Number
    high: Number
    step: Annotated[Number, Field(gt=0)] | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log = true needs low above 0 and no step")
        if self.step is not None:
            if self.whole and not isinstance(self.step, int):
                raise ValueError(f"step = {self.step} must be a whole number, as low and high are")
            steps = (self.high - self.low) / self.step
            if not math.isclose(steps, round(steps), abs_tol=1e-6):
                raise ValueError(f"high = {self.high} cannot be reached from low = {self.low} in steps of {self.step}")

    @property
    def whole(self) -> bool:
        """True if only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[object, ...]:
        """If the setting allows these values, it allows all."""
        return (self.low, self.high)

    @property
    def all_values(self) -> tuple[Number, ...]:
        """Every value, from low to high. Raises ValueError for a range that has no steps."""
        if self.log or (self.step is None and not self.whole):
            raise ValueError("a grid tries every value: give step, without log, or { choices = [...] }")
        step = self.step or 1
        return tuple(self.tidy(self.low + i * step) for i in range(round((self.high - self.low) / step) + 1))

    def tidy(self, value: Number) -> Number:
        """The value without rounding errors (0.1 + 2 * 0.1), never outside the range."""
        if self.whole:
            return int(value)
        digits = 12 if self.step is not None else SIGNIFICANT_DIGITS
        return min(max(float(f"{value:.{digits}g}"), float(self.low)), float(self.high))


@settings
class Choices:
    """One of these values, of any kind that a setting can hold."""

    choices: Annotated[tuple[Any, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for choice in self.choices:
            if (text := json.dumps(choice)) in seen:
                raise ValueError(f"{text} is listed twice among the choices; list every value once")
            seen.add(text)

    @property
    def ends(self) -> tuple[object, ...]:
        """If the setting allows these values, it allows all."""
        return self.choices

    @property
    def all_values(self) -> tuple[object, ...]:
        """Every value, in the order given."""
        return self.choices


@settings
class Cases:
    """Settings that change together: a trial uses one of the named cases, and every case gives all of the settings."""

    cases: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Case -> dotted setting -> value."""

    def __post_init__(self) -> None:
        first, *others = self.cases
        for case, given in self.cases.items():
            if not given:
                raise ValueError(f"case {case!r} gives no setting; write {case} = {{ INSTANCE.SETTING = … }}")
        for other in others:
            if odd := sorted(self.cases[first].keys() ^ self.cases[other].keys()):
                raise ValueError(f"cases {first!r} and {other!r} must give the same settings; one gives no {odd[0]}")
        known: dict[str, str] = {}
        for case, given in self.cases.items():
            if (before := known.setdefault(json.dumps(given, sort_keys=True), case)) != case:
                raise ValueError(f"cases {before!r} and {case!r} give the same values; leave one of them out")

    @property
    def settings(self) -> tuple[str, ...]:
        """The dotted settings that every case gives."""
        return tuple(next(iter(self.cases.values())))

    @property
    def all_values(self) -> tuple[str, ...]:
        """The names of the cases, in the order given."""
        return tuple(self.cases)


Dimension = Range | Choices | Cases
