from __future__ import annotations

from mastra_nb.messages import assistant, user
from mastra_nb.processors import Processor, Turn
from mastra_nb.runs import Run
from mastra_nb.tools import Tool


def test_a_turn_knows_what_is_kept() -> None:
    turn = Turn("Be kind.", "t")
    turn.history = [user("before")]
    turn.add((1, user("x")))
    turn.add((2, assistant("no")), draft=True)
    turn.add((3, assistant("yes")))
    assert [m.text for m in turn.messages()] == ["before", "x", "no", "yes"]
    assert turn.kept == [(1, user("x")), (3, assistant("yes"))]


async def test_a_processor_need_not_do_anything() -> None:
    from mastra_nb.context import Context

    async def go(ctx: Context) -> None:
        turn = Turn("")
        await Processor().process_input(turn, ctx)
        await Processor().after(turn, ctx)
        assert turn.messages() == ()

    await Run(Tool(go), {})
