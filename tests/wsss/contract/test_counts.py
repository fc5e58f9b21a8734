"""Counts are added by name, rows appended; the empty sum changes nothing."""

from __future__ import annotations

import numpy as np

from wsss.contract.counts import Counts


def test_sums_are_added_and_rows_appended_in_order() -> None:
    first = Counts(sums={"a.rows": np.array([1, 2])}, rows={"val": np.array([[7, 8]])})
    second = Counts(sums={"a.rows": np.array([10, 20])}, rows={"val": np.array([[9, 9], [5, 5]])})
    total = first + second
    # A sum is a sum whatever it is called: nothing depends on how a name ends.
    np.testing.assert_array_equal(total.sums["a.rows"], [11, 22])
    np.testing.assert_array_equal(total.rows["val"], [[7, 8], [9, 9], [5, 5]])
    np.testing.assert_array_equal(first.sums["a.rows"], [1, 2])


def test_the_empty_sum_is_neutral() -> None:
    one = Counts(sums={"images": np.array(3)})
    assert (Counts() + one).total("images") == (one + Counts()).total("images") == 3
