from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from mastra_nb._functions import digest, label
from mastra_nb.workflows import step


def made(source: str, tmp: str = "f") -> Callable[..., Any]:
    """Without a source that could be read: its bytecode is all there is."""
    space: dict[str, Any] = {}
    exec(source, space)
    return space[tmp]  # type: ignore[no-any-return]


def from_file(tmp_path: Any, name: str, source: str) -> Callable[..., Any]:
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    space: dict[str, Any] = {"step": lambda fn: fn}
    exec(compile(source, str(path), "exec"), space)
    return space["f"]  # type: ignore[no-any-return]


PLAIN = "def f(a):\n    return a + 1\n"


@pytest.mark.parametrize(
    "same",
    [
        "def f(a):\n    # why\n    return a + 1\n",
        "def f(a):\n\n\n    return (a\n            + 1)\n",
        'def f(a):\n    """What it does."""\n    return a + 1\n',
        "x = 1\n\n@step\ndef f(a):\n    return a + 1\n",
    ],
)
def test_comments_layout_place_and_decorators_are_not_what_it_does(
    tmp_path: Any, same: str
) -> None:
    one, other = from_file(tmp_path, "one", PLAIN), from_file(tmp_path, "other", same)
    assert digest(one) == digest(other) != ""


@pytest.mark.parametrize(
    "other",
    [
        "def f(a):\n    return a + 2\n",
        "def f(a):\n    return a - 1\n",
        "def f(a, b=1):\n    return a + 1\n",
        "async def f(a):\n    return a + 1\n",
        'def f(a):\n    """What it does."""\n    print(a)\n    return a + 1\n',
    ],
)
def test_other_code_is_another_digest(tmp_path: Any, other: str) -> None:
    assert digest(from_file(tmp_path, "one", PLAIN)) != digest(from_file(tmp_path, "two", other))


def test_without_a_source_the_bytecode_tells() -> None:
    assert digest(made(PLAIN)) == digest(made("\n\n" + PLAIN)) != ""
    assert digest(made(PLAIN)) != digest(made("def f(a):\n    return a + 2\n"))
    assert digest(made(PLAIN)) != digest(made("def f(a):\n    return a.b + 1\n"))


def test_what_has_no_code_has_no_digest() -> None:
    assert digest(len) == ""
    assert digest(functools.partial(int, base=2)) == ""


def test_lambdas_of_one_line_are_told_apart() -> None:
    one, two = (lambda n: n + 1), (lambda n: n + 2)
    assert digest(one) != digest(two)
    assert (label(one), label(two)) == ("n + 1", "n + 2")


def test_a_lambda_in_a_chain_of_calls_is_shown() -> None:
    class Chain:
        def then(self, fn: Any) -> Any:
            self.fn = fn
            return self

    found = Chain().then(
        lambda n: n["score"] >= 3
    ).then(
        lambda n: n["score"] < 3
    )  # fmt: skip
    assert label(found.fn) == "n['score'] < 3"


def test_a_label_is_a_name_or_short() -> None:
    def is_long(n: int) -> bool:
        return n > 3

    assert label(is_long) == "is_long"
    assert label(str.upper) == "upper"
    assert label(functools.partial(int, base=2)) == "partial"
    very = lambda n: n == "a very long text that no box of a picture has any room for, surely"  # noqa: E731
    assert len(label(very)) == 60 and label(very).endswith("…")
    assert label(made("f = lambda n: n")) == "a function"


def test_a_step_has_the_digest_of_its_function() -> None:
    def f(a: int) -> int:
        return a + 1

    assert step(f).code == digest(f) != ""
    assert step(len, id="len").code == ""
