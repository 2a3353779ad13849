from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.stores._vector_rules import fused

scored = st.dictionaries(st.integers(0, 9), st.integers(-20, 20).map(float), max_size=6)


def test_one_that_both_lists_hold_high_comes_first() -> None:
    near = {1: 0.9, 2: 0.89, 3: 0.2}
    words = {4: 9.0, 2: 8.9, 5: 1.0}
    assert [no for no, _ in fused(near, words)][:3] == [2, 4, 1]


def test_how_much_better_the_first_is_counts() -> None:
    clear = {1: 9.0, 2: 1.0, 3: 0.5}
    close = {1: 9.0, 2: 8.9, 3: 0.5}
    near = {2: 0.8, 3: 0.7}
    assert fused(near, clear)[0][0] == 1
    assert fused(near, close)[0][0] == 2


def test_a_list_of_one_counts_in_full() -> None:
    assert fused({}, {7: 0.001}) == [(7, 0.6)]
    assert fused({7: -0.5}, {}) == [(7, 0.4)]
    assert fused({}, {}) == []


def test_an_infinite_score_is_no_nan() -> None:
    assert fused({1: math.inf, 2: 0.0}, {}) == [(1, 0.4), (2, 0.4)]


@given(scored, scored, st.sampled_from([0.25, 2.0, 8.0]), st.integers(-64, 64))
def test_the_scale_of_a_list_does_not_matter(
    near: dict[int, float], words: dict[int, float], factor: float, added: int
) -> None:
    other = {no: s * factor + added for no, s in near.items()}
    assert fused(other, words) == fused(near, words)


@given(scored, scored)
def test_all_are_kept_and_scores_fall(near: dict[int, float], words: dict[int, float]) -> None:
    found = fused(near, words)
    assert {no for no, _ in found} == {*near, *words}
    assert found == sorted(found, key=lambda item: (-item[1], item[0]))
    assert all(0 <= score <= 1 for _, score in found)


def test_by_rank_only_the_order_counts() -> None:
    near, words = {1: 0.9, 2: 0.1}, {2: 5.0, 3: 4.9}
    assert fused(near, words, "rank") == [(2, 1 / 62 + 1 / 61), (1, 1 / 61), (3, 1 / 62)]
