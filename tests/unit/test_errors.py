from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import errors
from mastra_nb.errors import MastraError, ModelHTTPError, RunSuspended, Suspend, close_matches


def tree(cls: type[MastraError] = MastraError) -> list[type[MastraError]]:
    known = [
        sub
        for sub in cls.__subclasses__()
        if sub.__module__ == errors.__name__ and not sub.__name__.startswith("_")
    ]
    return [cls, *(c for sub in known for c in tree(sub))]


@pytest.mark.parametrize("cls", tree(), ids=lambda c: c.__name__)
def test_every_error_survives_a_pickle(cls: type[MastraError]) -> None:
    error = cls("it broke", hint="mend it", code="x.y")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert str(copy) == str(error) == "it broke\n  → mend it"


def test_the_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    assert [c.__name__ for c in tree() if c.__name__ not in errors.__doc__] == []


def test_codes_are_unique_and_default() -> None:
    codes = [cls.default_code for cls in tree()]
    assert len(set(codes)) == len(codes)
    for cls in tree():
        assert cls("x").code == cls.default_code
        assert str(cls("x")) == "x"


@given(
    status=st.integers(0, 599),
    retry_after=st.none() | st.floats(0, 1e6),
    details=st.dictionaries(st.text(), st.integers() | st.text(), max_size=3),
)
def test_http_error_keeps_its_fields(
    status: int, retry_after: float | None, details: dict[str, Any]
) -> None:
    error = ModelHTTPError("x", status=status, retry_after=retry_after, details=details)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_a_suspended_run_crosses_a_process_as_its_id() -> None:
    class Run:
        id = "r_1"
        socket = (n for n in ())  # cannot be pickled

    error = RunSuspended("waits", run=Run(), hint="%resume r_1 approve")
    copy = pickle.loads(pickle.dumps(error))
    assert copy.run == "r_1"
    assert copy.hint == error.hint
    assert isinstance(error.run, Run)


def test_a_signal_is_not_swallowed_by_user_code() -> None:
    assert not issubclass(Suspend, Exception)
    signal = Suspend("root/step")
    assert signal.path == "root/step"


@given(st.text(), st.lists(st.text(), max_size=12))
def test_close_matches_names_only_what_is_known(name: str, known: list[str]) -> None:
    hint = close_matches(name, known)
    assert bool(hint) == bool(known)
    if name in known:
        assert f'"{name}"' in hint


def test_close_matches() -> None:
    assert close_matches("opnai", ["openai", "groq", "zai"]) == 'did you mean "openai"?'
    assert close_matches("zzz", ["b", "a"]) == 'known: "a", "b"'
    assert close_matches("zzz", map(str, range(10))).endswith(", …")
    assert close_matches("zzz", []) == ""
