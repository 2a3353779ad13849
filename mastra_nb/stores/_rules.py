"""What every store of this family decides alike: checks, codecs and the errors they raise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from mastra_nb.errors import Conflict, LeaseHeld, NotFound, SchemaError, StorageError, UsageError
from mastra_nb.events import DELTAS, Event, Payload, RunStatus, encode_payload
from mastra_nb.storage import Retention

RESTING: frozenset[RunStatus] = frozenset({"suspended", "done", "failed", "cancelled"})
ENDED: frozenset[RunStatus] = frozenset({"done", "failed", "cancelled"})
MOST = 2**31 - 1
# The last use of an embedding is written at most so often: reading must stay reading.
USED_SECONDS = 86_400.0

_DELTAS = frozenset(DELTAS)

_encoder = msgspec.json.Encoder()


def to_json(value: Any, what: str) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise SchemaError(
            f"{what} cannot be stored as JSON: {exc}.",
            hint="Store str, int, float, bool, None, and lists and dicts of them.",
        ) from exc


def filtered_json(value: dict[str, Any], what: str) -> str:
    """JSON that filters look into."""
    raw = to_json(value, what).decode()
    if "\\u0000" in raw and _has_nul_key(msgspec.json.decode(raw)):
        # SQLite takes what is before the NUL for the key.
        raise SchemaError(f"{what} has a key with a NUL character", hint="leave it out")
    return raw


def _has_nul_key(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul_key(each) for key, each in value.items())
    return isinstance(value, list) and any(map(_has_nul_key, value))


def payload_json(data: Payload, run: str, seq: int) -> bytes:
    try:
        return encode_payload(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise SchemaError(
            f'Event {seq} of run "{run}" cannot be stored as JSON: {exc}.',
            hint="Return str, int, float, bool, None, and lists and dicts of them.",
        ) from exc


def check_names(*names: str | None) -> None:
    """Raises UsageError for text that is no Unicode (a lone surrogate)."""
    for name in names:
        if name is None or name.isascii():
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"The name {name!a} is not valid Unicode.",
                hint="Decode the text it came from with the right encoding.",
            ) from None


def check_events(run: str, events: Sequence[Event]) -> None:
    for event in events:
        if event.run != run:
            raise UsageError(f'An event of run "{event.run}" was appended to run "{run}".')
        if type(event.data) in _DELTAS:
            raise UsageError(
                f'A {type(event.data).__name__} was appended to run "{run}".',
                hint="Deltas are for eyes: append durable events only.",
            )
        if not event.span.isascii():
            check_names(event.span, event.parent)


_LOWER = str.maketrans({chr(c): chr(c + 32) for c in range(ord("A"), ord("Z") + 1)})


def lower(text: str) -> str:
    """As SQLite does it: ASCII letters only."""
    return text.translate(_LOWER)


def at_most(number: int) -> int:
    return max(0, min(number, MOST))


def spans(
    after: int, upto: int | None, ranges: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """The positions asked for, both ends included, as ranges in order that do not meet."""
    low, high = at_most(after) + 1, MOST if upto is None else at_most(upto)
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges) if ranges is not None else [(low, high)]:
        start, end = max(start, low), min(end, high)
        if start > end:
            continue
        if found and start <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def cutoffs(retention: Retention, now: float) -> dict[str, float]:
    """By field: what was last changed then or before is too old; -1 is never."""
    days = msgspec.structs.asdict(retention)
    return {name: -1.0 if d is None else now - d * 86_400 for name, d in days.items()}


def lease_after(status: RunStatus | None, until: float, lease: float, now: float) -> float:
    """When the lease ends after an append; 0 is a lease that was given up, and stays so."""
    if status in RESTING or (status is None and not until):
        return 0.0
    return now + lease


def prefix_end(prefix: str) -> str | None:
    """The least text greater than every text that begins with `prefix`; None if there is none."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if code <= 0x10FFFF:
            # UTF-8 has no surrogates, so the next code point after U+D7FF is U+E000.
            return prefix[:-1] + chr(0xE000 if 0xD800 <= code <= 0xDFFF else code)
        prefix = prefix[:-1]
    return None


def no_run(run: str) -> NotFound:
    return NotFound(f'There is no run "{run}".', hint="List the runs with `app.find_runs()`.")


def check_deletable(run: str, *, rests: bool, said: bool, forked: bool) -> None:
    """Raises Conflict for a run that something still needs."""
    why = {
        "is on its way": not rests,
        "is what another run was forked from": forked,
        "holds messages of a thread": said,
    }
    for reason, holds in why.items():
        if holds:
            raise Conflict(f'Run "{run}" {reason}.', hint="It cannot be deleted now.")


def no_message(run: str, seq: int) -> NotFound:
    return NotFound(f'Event {seq} of run "{run}" is not there or holds no message.')


def no_thread(thread: str) -> NotFound:
    return NotFound(
        f'There is no thread "{thread}".', hint="List the threads with `app.find_threads()`."
    )


def thread_taken(thread: str) -> Conflict:
    return Conflict(f'A thread "{thread}" exists already.', hint="Give the new thread another id.")


def held(run: str, owner: str, until: float) -> LeaseHeld:
    left = max(0.0, until - time.time())
    return LeaseHeld(
        f'Run "{run}" is held by "{owner}" for another {left:.0f} s.',
        hint="Follow it there, or take it over once the lease has run out.",
        details={"run": run, "owner": owner, "lease_until": until},
    )


def fenced(run: str, fence: int, newest: int, owner: str) -> LeaseHeld:
    return LeaseHeld(
        f'Run "{run}" was taken over by "{owner}": this writer\'s claim {fence} is older than '
        f"claim {newest}.",
        hint="Follow the run there, or claim it again once its lease has run out.",
        details={"run": run, "owner": owner, "fence": newest},
    )


def run_taken(run: str) -> Conflict:
    return Conflict(
        f'A run "{run}" exists already.', hint="Resume it, or give the new run another id."
    )


def key_taken(key: str, run: str) -> Conflict:
    return Conflict(
        f'The key "{key}" belongs to run "{run}".',
        hint="Attach to that run, or start the new one under another key.",
        details={"key": key, "run": run},
    )


def seq_taken(run: str, seq: int) -> Conflict:
    return Conflict(
        f'Event {seq} of run "{run}" exists already.',
        hint="Read the run again: another writer was faster.",
        details={"run": run, "seq": seq},
    )


def finished_twice(run: str, path: str) -> Conflict:
    return Conflict(
        f'"{path}" of run "{run}" has finished already.',
        hint="A finished step never runs again: take its output from the journal.",
        details={"run": run, "path": path},
    )


def closed(url: str) -> StorageError:
    return StorageError(
        f'The store "{url}" is closed.', hint="Open it again.", code="storage.closed"
    )
