"""The nodes of a workflow's plan: data that `engine` walks, and their part of an outline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from mastra_nb import _functions
from mastra_nb.steps import Step


def otherwise(value: Any) -> bool:
    """The condition of a branch's last arm: no other arm was chosen."""
    return True


class Then(msgspec.Struct, frozen=True):
    step: Step[Any]

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield self.step

    @property
    def node(self) -> dict[str, Any]:
        return self.step.node


class Parallel(msgspec.Struct, frozen=True):
    """`wait` is how many have to end; 0 is all."""

    arms: tuple[Step[Any], ...]
    wait: int = 0

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield from self.arms

    @property
    def id(self) -> str:
        return f"parallel:{self.arms[0].name}"

    @property
    def node(self) -> dict[str, Any]:
        arms = [[arm.node] for arm in self.arms]
        out: dict[str, Any] = {"type": "parallel", "id": self.id, "arms": arms}
        if self.wait:
            out["wait"] = self.wait
        return out


class Branch(msgspec.Struct, frozen=True):
    arms: tuple[tuple[Callable[..., Any], Step[Any]], ...]
    exclusive: bool

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield from (step for _, step in self.arms)

    @property
    def id(self) -> str:
        return f"branch:{self.arms[0][1].name}"

    @property
    def node(self) -> dict[str, Any]:
        arms = [{"when": _functions.label(rule), "nodes": [step.node]} for rule, step in self.arms]
        out: dict[str, Any] = {"type": "branch", "id": self.id, "arms": arms}
        return out | {"exclusive": True} if self.exclusive else out


class Loop(msgspec.Struct, frozen=True):
    step: Step[Any]
    how: Literal["while", "until"]
    rule: Callable[..., Any]

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield self.step

    @property
    def node(self) -> dict[str, Any]:
        return {
            "type": "loop",
            "id": f"loop:{self.step.name}",
            "how": self.how,
            "when": _functions.label(self.rule),
            "nodes": [self.step.node],
        }


class ForEach(msgspec.Struct, frozen=True):
    step: Step[Any]
    concurrency: int

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield self.step

    @property
    def node(self) -> dict[str, Any]:
        return {
            "type": "foreach",
            "id": f"foreach:{self.step.name}",
            "concurrency": self.concurrency,
            "nodes": [self.step.node],
        }


class Graph(msgspec.Struct, frozen=True):
    """Steps that begin as soon as what they depend on has ended; `needs` are ids, by id."""

    parts: tuple[Step[Any], ...]
    needs: dict[str, tuple[str, ...]]

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield from self.parts

    @property
    def ends(self) -> list[str]:
        """Those that nothing depends on."""
        needed = {n for each in self.needs.values() for n in each}
        return [s.name for s in self.parts if s.name not in needed]

    @property
    def node(self) -> dict[str, Any]:
        return {
            "type": "graph",
            "id": f"graph:{self.parts[0].name}",
            "nodes": [s.node for s in self.parts],
            "edges": [[need, id] for id, needs in self.needs.items() for need in needs],
        }


class Sleep(msgspec.Struct, frozen=True):
    """For so many seconds, or until then; or as long as a function of the value says."""

    id: str
    length: float | dt.datetime | Callable[..., Any]

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield from ()

    @property
    def node(self) -> dict[str, Any]:
        if callable(self.length):
            text = _functions.label(self.length)
        elif isinstance(self.length, dt.datetime):
            text = f"until {self.length:%Y-%m-%d %H:%M}"
        else:
            text = f"{self.length:g} s"
        return {"type": "sleep", "id": self.id, "label": text}


class WaitForEvent(msgspec.Struct, frozen=True):
    id: str
    schema: Any
    timeout: float | None
    default: Any

    @property
    def steps(self) -> Iterator[Step[Any]]:
        yield from ()

    @property
    def node(self) -> dict[str, Any]:
        return {"type": "event", "id": self.id}


Node = Then | Parallel | Branch | Loop | ForEach | Graph | Sleep | WaitForEvent
