from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from mastra_nb import portal
from mastra_nb.errors import Suspend, ToolTimeout, UsageError

color: ContextVar[str] = ContextVar("color", default="none")


async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


async def count(n: int, closed: list[str]) -> AsyncIterator[int]:
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.sleep(0)
        closed.append(threading.current_thread().name)


def test_run_in_a_script() -> None:
    assert portal.run(double(2)) == 4


async def test_run_beside_a_running_loop() -> None:
    assert portal.run(double(2)) == 4
    assert list(portal.iterate(count(3, []))) == [0, 1, 2]
    assert portal.loop() is not asyncio.get_running_loop()


async def test_run_nested_in_async_code() -> None:
    async def tool() -> int:
        return await asyncio.to_thread(lambda: portal.run(double(3)))

    assert await tool() == 6
    assert portal.run(tool()) == 6


def test_run_in_many_threads() -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(portal.run(double(n)))) for n in range(9)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [2 * n for n in range(9)]


def test_one_loop_serves_all() -> None:
    async def here() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert portal.run(here()) is portal.run(here()) is portal.loop()


def test_context_variables_reach_the_coroutine_and_stay_apart() -> None:
    async def read() -> str:
        before = color.get()
        color.set("changed")
        return before

    token = color.set("red")
    try:
        assert portal.run(read()) == "red"
        assert color.get() == "red"
    finally:
        color.reset(token)
    assert portal.run(read()) == "none"


@pytest.mark.parametrize(
    "error",
    [
        ToolTimeout("slow"),
        TimeoutError("slow"),
        Suspend("root"),
        KeyboardInterrupt(),
        SystemExit(3),
        asyncio.CancelledError(),
        StopIteration(1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_a_coroutine_raises_keeps_its_type(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    expected: type[BaseException] = type(error)
    if expected is StopIteration:  # Python itself turns it into this inside a coroutine
        expected = RuntimeError
    with pytest.raises(expected):
        portal.run(fail())
    assert portal.run(double(1)) == 2


def test_an_error_leaves_no_cycle_behind() -> None:
    class Big:
        pass

    alive: list[object] = []

    async def fail() -> None:
        import weakref

        big = Big()
        alive.append(weakref.ref(big))
        raise ToolTimeout("slow")

    gc.disable()
    try:
        with pytest.raises(ToolTimeout):
            portal.run(fail())
        time.sleep(0.02)
        assert alive[0]() is None  # type: ignore[operator]
    finally:
        gc.enable()


def test_a_call_on_the_portal_thread_is_refused() -> None:
    async def nested() -> None:
        portal.run(double(1))

    with pytest.raises(UsageError, match="wait for ever") as caught:
        portal.run(nested())
    assert "await" in caught.value.hint

    async def nested_iterate() -> None:
        portal.iterate(count(1, []))

    with pytest.raises(UsageError, match="wait for ever"):
        portal.run(nested_iterate())


def test_iterate_runs_in_one_task_and_only_as_far_as_asked() -> None:
    reached: list[int] = []
    tasks: set[object] = set()

    async def source() -> AsyncIterator[int]:
        async with asyncio.timeout(5):
            for i in range(3):
                reached.append(i)
                tasks.add(asyncio.current_task())
                yield i

    iterator = portal.iterate(source())
    assert reached == []
    assert next(iterator) == 0
    time.sleep(0.02)
    assert reached == [0]
    assert list(iterator) == [1, 2]
    assert len(tasks) == 1


def test_iterate_takes_any_async_iterable() -> None:
    class Three:
        def __init__(self) -> None:
            self.n = 0

        def __aiter__(self) -> Three:
            return self

        async def __anext__(self) -> int:
            self.n += 1
            if self.n > 3:
                raise StopAsyncIteration
            return self.n

    assert list(portal.iterate(Three())) == [1, 2, 3]


@pytest.mark.parametrize("how", ["close", "drop", "break", "throw"])
def test_a_left_iterator_closes_its_source(how: str) -> None:
    closed: list[str] = []
    iterator = portal.iterate(count(9, closed))
    assert next(iterator) == 0
    if how == "close":
        iterator.close()
    elif how == "drop":
        del iterator
    elif how == "break":
        for _ in iterator:
            break
        del iterator
    else:
        with pytest.raises(ToolTimeout):
            iterator.throw(ToolTimeout("x"))
    assert closed == ["mastra_nb-portal"]


def test_an_iterator_dropped_on_the_portal_thread_does_not_wait_for_itself() -> None:
    closed: list[str] = []
    box = [portal.iterate(count(9, closed))]
    assert next(box[0]) == 0

    async def drop() -> None:
        box.clear()
        while not closed:
            await asyncio.sleep(0.001)

    portal.run(drop())
    assert closed == ["mastra_nb-portal"]


def test_iterate_passes_errors_on() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise ToolTimeout("slow")

    iterator = portal.iterate(source())
    assert next(iterator) == 1
    with pytest.raises(ToolTimeout):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


def test_cancelling_before_the_start_leaves_no_unawaited_coroutine() -> None:
    job = portal._Job(double(1))
    hold = threading.Event()
    job.portal.loop.call_soon_threadsafe(hold.wait, 5)
    job.start()
    job.portal.loop.call_soon_threadsafe(lambda: job.task and job.task.cancel())
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        job.result()


# --- whole processes ---


def python(code: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    # A job in the background of a script inherits SIGINT as ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    # A busy machine is slow at everything, and asyncio warns of it.
    heed += "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", heed + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


INTERRUPTED = """
    import asyncio, os, signal, threading, time
    from mastra_nb import portal
    out = []
    async def work():
        try:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            out.append("unwound")
            raise
    async def items():
        yield 1
        await work()
    started = time.monotonic()
    try:
        {call}
    except KeyboardInterrupt:
        out.append("interrupted")
    print(*out, time.monotonic() - started < 10)
"""


@pytest.mark.parametrize("call", ["portal.run(work())", "list(portal.iterate(items()))"])
def test_a_real_interrupt_unwinds_the_coroutine_first(call: str) -> None:
    done = python(INTERRUPTED.replace("{call}", call))
    assert (done.stdout, done.stderr) == ("unwound interrupted True\n", "")


def test_an_interrupt_does_not_wait_for_ever() -> None:
    done = python(
        """
        import asyncio, os, signal, threading, time
        from mastra_nb import portal
        portal.UNWIND_SECONDS = 0.2
        async def stubborn():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    pass
        started = time.monotonic()
        try:
            portal.run(stubborn())
        except KeyboardInterrupt:
            print("out", time.monotonic() - started < 10)
        """
    )
    assert (done.stdout, done.stderr) == ("out True\n", "")


@pytest.mark.parametrize(
    "left_behind",
    [
        "portal.run(asyncio.sleep(0))",
        "portal.loop().call_soon_threadsafe(lambda: tasks.append("
        "portal.loop().create_task(asyncio.sleep(30))))",
        "it = portal.iterate(items()); next(it)",
    ],
)
def test_the_interpreter_ends_without_a_warning(left_behind: str) -> None:
    done = python(
        f"""
        import asyncio
        from mastra_nb import portal
        tasks = []
        async def items():
            yield 1
            yield 2
        {left_behind}
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_forked_child_has_a_portal_of_its_own_and_the_parent_keeps_his() -> None:
    done = python(
        """
        import asyncio, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork beside a thread
        from mastra_nb import portal
        async def thread():
            return id(asyncio.get_running_loop())
        before = portal.run(thread())
        child = os.fork()
        if not child:
            os._exit(0 if portal.run(thread()) != before else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), portal.run(thread()) == before)
        """
    )
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_patch_loop_lets_a_cell_call_asyncio_run() -> None:
    done = python(
        """
        import asyncio
        from mastra_nb import portal
        portal.patch_loop()
        async def cell():
            portal.patch_loop()
            portal.patch_loop()
            return asyncio.run(asyncio.sleep(0, "inner"))
        print(asyncio.run(cell()), portal.run(asyncio.sleep(0, "ours")))
        """
    )
    assert (done.stdout, done.stderr) == ("inner ours\n", "")


def test_patch_loop_refuses_a_foreign_loop() -> None:
    done = python(
        """
        import asyncio
        from mastra_nb import portal
        from mastra_nb.errors import UsageError
        class Foreign(asyncio.AbstractEventLoop):
            pass
        asyncio._set_running_loop(Foreign())
        try:
            portal.patch_loop()
        except UsageError as error:
            print(error)
        """
    )
    assert '"__main__.Foreign"' in done.stdout
    assert "without uvloop" in done.stdout


def test_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    portal.run(double(1))
    assert signal.getsignal(signal.SIGINT) is before
