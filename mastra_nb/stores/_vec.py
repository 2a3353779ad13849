"""sqlite-vec in the connections of a store, and why it is not there.

An extension reaches SQLite through the variable `sqlite3_api` that it exports, and SQLite opens
extensions with RTLD_GLOBAL. So on Linux one variable serves all extensions of a process: when a
second SQLite library loads any extension, those of the first call into the second with objects
that are not its own. Seen with `vec0` tables: SIGSEGV, and "bad parameter or other API misuse".

Who comes second has to yield. We never load after another library has loaded an extension, and
stop to use ours when the variable changes. The standard library says beforehand what it is going
to load, and is refused while we depend on it; other libraries say nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import apsw

from mastra_nb.errors import StorageError

_SQLITE_VEC = re.compile(r"vec0|sqlite.?vec", re.IGNORECASE)

_lock = threading.Lock()
_loaded: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()
_refusal = ""
# Keeps the extension in memory when no connection has it, so that `_api` stays readable.
_library: ctypes.CDLL | None = None
_api: ctypes.c_void_p | None = None
_ours: int | None = None


def load(db: apsw.Connection) -> str:
    """Loads sqlite-vec into `db`; answers why its functions must not be called, or "".

    To be asked before every use: another library can come at any time.
    """
    global _refusal
    if _refusal:
        return _refusal
    if _api is not None and _api.value != _ours:
        _refusal = _taken(_api)
        return _refusal
    if db in _loaded:
        return ""
    with _lock:
        _refusal = _load(db)
        return _refusal


def _load(db: apsw.Connection) -> str:
    global _library, _api, _ours
    if _refusal or db in _loaded:  # by another thread
        return _refusal
    first = _library is None
    if first and (reason := _stranger()):
        return reason
    spec = importlib.util.find_spec("sqlite_vec")
    if spec is None or not spec.submodule_search_locations:
        return 'the package "sqlite-vec" is not installed'
    # Its own `loadable_path` would cost the import of the package: 66 ms, most of it NumPy's types.
    extension = Path(spec.submodule_search_locations[0], "vec0")
    try:
        # Not enable_load_extension(), which would give the function to SQL as well.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        try:
            db.load_extension(str(extension))
        finally:
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        if first:
            (file,) = extension.parent.glob("vec0.*")
            _library = ctypes.CDLL(str(file))
            _api = _variable()
            _ours = None if _api is None else _api.value
            sys.addaudithook(_watch)
    except (apsw.ExtensionLoadingError, AttributeError, OSError, ValueError) as exc:
        # AttributeError: an apsw that was built without extensions.
        return f"sqlite-vec cannot be loaded here: {exc}"
    _loaded.add(db)
    return ""


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event != "sqlite3.load_extension" or _refusal or not _loaded:
        return
    if _SQLITE_VEC.search(os.path.basename(os.fsdecode(args[1]))):  # noqa: PTH119
        raise StorageError(
            "sqlite-vec is in use by a store of this process: loaded by a second SQLite library "
            "it can crash the process.",
            hint="Use `app.vectors` and `app.sql`, or load it there before the store does: the "
            "store does without it then.",
            code="storage.foreign",
        )


if sys.platform == "win32":
    # There each extension has a variable of its own, unless two libraries load the same file.

    def _variable() -> ctypes.c_void_p | None:
        return None

    def _stranger() -> str:
        find = ctypes.WinDLL("kernel32").GetModuleHandleW
        find.restype = ctypes.c_void_p
        return '"vec0.dll" is loaded in this process already' if find("vec0.dll") else ""

else:

    def _variable() -> ctypes.c_void_p | None:
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "sqlite3_api")
        except ValueError:
            return None

    def _stranger() -> str:
        api = _variable()
        if api is None or os.path.realpath(_file(api.value)) == os.path.realpath(apsw.__file__):
            return ""
        return _taken(api)


def _taken(api: ctypes.c_void_p) -> str:
    return (
        f'another SQLite library, "{_file(api.value)}", has loaded an extension in this process: '
        "together with sqlite-vec that can crash it"
    )


class _Place(ctypes.Structure):
    """Dl_info of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file(address: int | None) -> str:
    place = _Place()
    if not address or not ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(place)):
        return "an unknown library"
    return os.fsdecode(place.file)
