"""Facts as values: how strong one is, what was recalled or forgotten."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mastra_nb.memory._asking import when
from mastra_nb.memory._show import Bundle, bar, bundle, counted, table

DAY = 86_400.0


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """`importance` is 0 to 1; `used` is when it was last told to a model (or made), `uses` how
    often; `gone` is when it was forgotten, 0 if it was not. Times are seconds since the epoch.
    `thread` and `pos` are where it comes from, if it was said.
    """

    id: str
    text: str
    importance: float = 0.5
    pinned: bool = False
    created: float = 0.0
    used: float = 0.0
    uses: int = 0
    gone: float = 0.0
    resource: str = ""
    thread: str = ""
    pos: int = 0

    def strength(self, now: float, half_life: float) -> float:
        """importance * 0.5 ** (days since it was last used / half_life): exponential forgetting,
        after Ebbinghaus (1885), as the recency of memories in "Generative Agents" (Park et al.
        2023, section 4.1), where using one renews it. A pinned fact does not fade.
        """
        if self.pinned:
            return self.importance
        age = max(0.0, now - self.used) / DAY
        return float(self.importance * 0.5 ** (age / half_life))


class Recalled(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that fits a question; `relevance` is 0 to 1 (the best hit has 1), `score`, by which
    they are ordered, is relevance * (1 + strength) / 2.
    """

    fact: Fact
    relevance: float
    strength: float
    score: float


class Fading(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a fact: "forget" leaves it out of recall, and it can be restored;
    "erase" deletes for good what was forgotten long ago.
    """

    fact: Fact
    strength: float
    action: Literal["forget", "erase"]
    why: str


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What was forgotten, or with `dry_run` would be; `kept` is how many stay."""

    items: tuple[Fading, ...]
    kept: int
    dry_run: bool

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        would = "would be " if self.dry_run else ""
        forget = sum(i.action == "forget" for i in self.items)
        erased = len(self.items) - forget
        line = f"{forget} {would}forgotten, {erased} {would}erased, {self.kept} stay"
        if self.dry_run and self.items:
            line += " · forget(dry_run=False) does it"
        rows = [(i.fact.text, bar(i.strength), i.action, i.why, i.fact.id) for i in self.items]
        return bundle(line, table(("fact", "strength", "what", "why", "id"), rows))


class FactList(tuple[Fact, ...]):
    """Facts that show themselves as a table; `now` and `half_life` say how strong they are."""

    now: float = 0.0
    half_life: float = 1.0

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return bundle(counted(len(self), "fact"), self.markdown())

    def markdown(self) -> str:
        rows = [
            (
                ("📌 " if f.pinned else "") + f.text,
                bar(f.strength(self.now, self.half_life)),
                f"{f.importance:.2g}",
                when(f.used),
                str(f.uses),
                f.id,
            )
            for f in self
        ]
        head = ("fact", "strength", "importance", "last used", "uses", "id")
        return table(head, rows)


class _Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    owner: str
    importance: float
    pinned: bool
    created: float
    used: float
    uses: int
    gone: float | None = None
    resource: str = ""
    thread: str = ""
    pos: int = 0


def metadata_of(fact: Fact, owner: str) -> dict[str, Any]:
    made = {f: getattr(fact, f) for f in _Meta.__struct_fields__ if f not in ("owner", "gone")}
    kept: dict[str, Any] = msgspec.to_builtins(_Meta(owner=owner, gone=fact.gone or None, **made))
    return kept


def fact_of(id: str, text: str, metadata: dict[str, Any]) -> Fact:
    meta = msgspec.convert(metadata, _Meta)
    known = {f: getattr(meta, f) for f in _Meta.__struct_fields__ if f not in ("owner", "gone")}
    return Fact(id=id, text=text, gone=meta.gone or 0.0, **known)
