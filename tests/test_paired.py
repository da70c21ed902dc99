"""Paired comparison: exact against scipy, and an interval that holds its level."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from inspector.paired import Z, paired

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def split(pairs: list[tuple[bool, bool]]) -> tuple[list[float], list[float]]:
    return [float(a) for a, _ in pairs], [float(b) for _, b in pairs]


@given(answers)
def test_counts_difference_and_mcnemars_test(pairs: list[tuple[bool, bool]]) -> None:
    here, there = split(pairs)
    found = paired(here, there)
    assert found is not None
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    assert (found.items, found.gained, found.lost) == (len(pairs), gained, lost)
    assert found.difference == pytest.approx((gained - lost) / len(pairs))
    flips = gained + lost
    assert found.p == pytest.approx(binomtest(gained, flips).pvalue if flips else 1.0)
    assert -1 <= found.low < found.high <= 1


@given(answers)
def test_the_other_way_round_is_the_mirror_image(pairs: list[tuple[bool, bool]]) -> None:
    here, there = split(pairs)
    one, other = paired(here, there), paired(there, here)
    assert one is not None and other is not None
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert (other.gained, other.lost, other.p) == (one.lost, one.gained, one.p)


def test_the_interval_by_hand() -> None:
    # 60 items, 9 gained, 3 lost: cells of 9.5 and 3.5 of 62.
    here = [1.0] * 9 + [0.0] * 3 + [1.0] * 48
    there = [0.0] * 9 + [1.0] * 3 + [1.0] * 48
    found = paired(here, there)
    assert found is not None
    middle, error = 6 / 62, math.sqrt(13 - 36 / 62) / 62
    assert (found.low, found.high) == pytest.approx((middle - Z * error, middle + Z * error))
    assert not found.decided and found.p == pytest.approx(0.1459960938)


def test_the_interval_holds_its_level_where_few_items_flip() -> None:
    draw = random.Random(0)
    gain, lose, hits = 0.06, 0.02, 0
    for _ in range(2000):
        fates = draw.choices((1, -1, 0), (gain, lose, 1 - gain - lose), k=60)
        here = [float(fate > 0) for fate in fates]
        there = [float(fate < 0) for fate in fates]
        found = paired(here, there)
        assert found is not None
        hits += found.low <= gain - lose <= found.high
    assert 0.94 <= hits / 2000 <= 0.995


def test_scores_that_are_no_yes_or_no() -> None:
    found = paired([0.5, 0.75, 1.0, 0.25], [0.25, 0.75, 0.5, 0.5])
    assert found is not None
    steps = [0.25, 0.0, 0.5, -0.25]
    mean = sum(steps) / 4
    error = math.sqrt(sum((step - mean) ** 2 for step in steps) / 3 / 4)
    assert found.difference == mean == 0.125
    assert (found.low, found.high) == pytest.approx((mean - Z * error, mean + Z * error))
    assert (found.gained, found.lost) == (2, 1)


def test_nothing_to_compare() -> None:
    assert paired([], []) is None
    assert paired([1.0], []) is None
    assert paired([1.0], [1.0, 0.0]) is None
    alone = paired([0.3], [0.1])
    assert alone is not None and math.isnan(alone.low) and not alone.decided


def test_equal_answers_are_no_difference_but_no_certainty_either() -> None:
    found = paired([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert found is not None
    assert (found.difference, found.p, found.decided) == (0.0, 1.0, False)
    assert found.low == -found.high and 0 < found.high < 0.03
