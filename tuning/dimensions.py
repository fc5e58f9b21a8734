"""What a searched setting may be: a range of numbers, or one of some choices."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field

from wsss.settings import settings

Number = int | float
SIGNIFICANT_DIGITS = 4
"""Of a value from a range without a step: what a person can read and type again."""


@settings
class Range:
    """Numbers from `low` to `high`, both included; whole numbers only where both are whole."""

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
                raise ValueError(f"step = {self.step} does not lead from low = {self.low} to high = {self.high}")

    @property
    def whole(self) -> bool:
        """True where only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[object, ...]:
        """Values whose validity says that all are valid."""
        return (self.low, self.high)

    def tidy(self, value: Number) -> Number:
        """The value without the noise of floating point (0.1 + 2 * 0.1), never outside the range."""
        if self.whole:
            return int(value)
        digits = 12 if self.step is not None else SIGNIFICANT_DIGITS
        return min(max(float(f"{value:.{digits}g}"), float(self.low)), float(self.high))


@settings
class Choices:
    """One of these values, of any kind that a setting can hold."""

    choices: Annotated[tuple[Any, ...], Field(min_length=1)]

    @property
    def ends(self) -> tuple[object, ...]:
        """Values whose validity says that all are valid."""
        return self.choices
