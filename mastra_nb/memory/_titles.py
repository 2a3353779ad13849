"""Titles of conversations, made once, behind the first exchange."""

from __future__ import annotations

import msgspec

from mastra_nb.memory._asking import Question, ask, told
from mastra_nb.memory._attached import Place
from mastra_nb.models import Model, ModelLike, ready, resolve
from mastra_nb.services import Services

_LONGEST = 80
_FIRST = 4
INSTRUCTIONS = (
    "Name the conversation in at most eight words, in its own language: what it is about, so that "
    "it is found again in a list. No quotes, no full stop."
)


class Title(msgspec.Struct, frozen=True, kw_only=True):
    title: str


class Titles(msgspec.Struct, frozen=True, kw_only=True):
    """How titles are made: by the agent's own model if none is named."""

    model: ModelLike | None = None
    instructions: str = INSTRUCTIONS


async def entitle(
    options: Titles, place: Place, model: Model | None, services: Services, *, born: float
) -> None:
    """Once: a thread that has a title, from whomever, keeps it."""
    thread = await place.store.get_thread(place.thread)
    if thread is None or thread.title or thread.created != born:
        return
    if options.model is not None:
        model = ready(resolve(options.model), services)
    if model is None:
        return
    first = await place.store.read_messages(place.thread, upto=_FIRST)
    question = Question(
        instructions=options.instructions,
        data={"messages": told(first)},
        about={"thread": place.thread},
    )
    given = await ask("title", model, question, Title, services, place=place)
    title = " ".join(given.title.split())[:_LONGEST].strip()
    # It may have been named, given away or deleted while the model thought.
    now = await place.store.get_thread(place.thread)
    if title and now is not None and now.created == born:
        if now.resource != place.resource or now.title:
            return
        await place.store.put_thread(msgspec.structs.replace(now, title=title))
