from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mastra_nb.stores._rules import lease_after, prefix_end, spans

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
edges = st.text(st.sampled_from("a\ud7ff\ue000\U0010ffff"), max_size=3)


@given(text | edges, text | edges)
def test_a_prefix_is_a_range(prefix, other):
    end = prefix_end(prefix)
    inside = prefix <= other and (end is None or other < end)
    assert inside == other.startswith(prefix)
    assert not (prefix + other) < prefix
    assert end is None or prefix + other < end


def test_a_lease_given_up_stays_so():
    assert lease_after(None, 0.0, 30, 100) == 0
    assert lease_after("done", 120.0, 30, 100) == 0
    assert lease_after(None, 120.0, 30, 100) == 130
    assert lease_after("running", 0.0, 30, 100) == 130


@given(
    st.integers(-2, 9),
    st.none() | st.integers(-2, 9),
    st.none() | st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), max_size=4),
)
def test_spans_are_the_positions_asked_for(after, upto, ranges):
    found = spans(after, upto, ranges)
    for pos in range(-3, 13):
        asked = ranges is None or any(low <= pos <= high for low, high in ranges)
        asked = asked and pos > max(0, after) and (upto is None or pos <= upto)
        assert asked == any(low <= pos <= high for low, high in found)
    assert all(one[1] + 1 < two[0] for one, two in pairwise(found))
