"""Settings, secrets and logging.

A setting is looked up in this order: argument, environment, `.env` of the project, then the one
file of the project that holds settings (mastra.toml, mastra.json or [tool.mastra] in
pyproject.toml), then its default.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

from mastra_nb import _keyring
from mastra_nb.errors import ConfigError, UsageError, close_matches

P = TypeVar("P")

# --- secrets ---------------------------------------------------------------------------------

_MASK = "***"
_SHORTEST = 8  # a shorter value would mask ordinary words
_known_secrets: set[str] = set()
_LOOKS_SECRET = re.compile(
    r"(?P<scheme>\b(?:bearer|authorization:\s*\w+)\s+)[\w.~+/=-]{8,}"
    r"|(?P<user>://[^/\s:@]+:)[^/\s@]+(?=@)"
    r"|(?P<query>[?&](?:api[_-]?key|key|token|access_token)=)[^&\s\"']+"
    r"|\b(?:sk|rk|gsk|xai|pplx|csk)[-_][\w-]{8,}"
    r"|\b(?:gh[pousr]|hf|tgp)_(?=\w*\d)\w{8,}"
    r"|\bAIza[\w-]{20,}",
    re.IGNORECASE,
)


class Secret:
    """A value that prints as ***. `reveal()` gives the text, to be used and not kept.

    It equals only itself and refuses to be pickled; JSON encoders do not know it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value) >= _SHORTEST:
            _known_secrets.add(value)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_MASK})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return _MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a secret cannot be pickled",
            hint="read it with secret(name) in the process that needs it",
        )


def redact(text: str) -> str:
    """`text` without the values of secrets known to this process and what looks like an API key."""
    for value in sorted(_known_secrets, key=len, reverse=True):
        text = text.replace(value, _MASK)
    return _LOOKS_SECRET.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    return (match["scheme"] or match["user"] or match["query"] or "") + _MASK


# --- the project and its files ---------------------------------------------------------------

_FILES = ("mastra.toml", "mastra.json", "pyproject.toml")


def project_root(start: str | os.PathLike[str] | None = None) -> Path:
    """The nearest folder above `start` (default: the current one) that holds our settings.

    That is a mastra.toml, a mastra.json or a pyproject.toml with [tool.mastra]; without one it is
    the folder of `start` itself.
    """
    here = Path.cwd() if start is None else Path(start).absolute()
    if here.is_file():
        here = here.parent
    for folder in (here, *here.parents):
        if any(_parsed(folder / name, _parse_settings) is not None for name in _FILES):
            return folder
    return here


_cache: dict[Path, tuple[tuple[int, int], Any]] = {}


def _parsed(path: Path, parse: Callable[[Path, str], P]) -> P | None:
    """What `parse` makes of the file, once for each version of it; None if there is no file."""
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if not stat.S_ISREG(info.st_mode):  # a virtual environment may be a folder named .env
        return None
    stamp = (info.st_mtime_ns, info.st_size)
    cached = _cache.get(path)
    if cached is None or cached[0] != stamp:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f'"{path}" is not UTF-8 text') from error
        except OSError as error:
            raise ConfigError(f'"{path}" cannot be read: {error.strerror}') from error
        cached = _cache[path] = (stamp, parse(path, text))
    parsed: P = cached[1]
    return parsed


def _parse_settings(path: Path, text: str) -> dict[str, Any] | None:
    """The table of settings, None in a pyproject.toml that has none of ours."""
    foreign = path.name == "pyproject.toml"
    if foreign and "mastra" not in text:
        return None
    # At a cold start without settings nothing is parsed.
    import tomllib

    try:
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(f'"{path}" is not valid {path.suffix[1:].upper()}: {error}') from error
    if foreign:
        table = table.get("tool", {}).get("mastra")
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f'"{path}" does not hold a table of settings')
    return table


_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)")\s*(?:\#.*)?""")
_COMMENT = re.compile(r"(?:^|\s+)#.*")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _parse_dotenv(path: Path, text: str) -> dict[str, str]:
    """NAME=VALUE lines, quotes, `export` and comments; no expansion, no value over many lines."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        value = None if match is None else _dotenv_value(match[2])
        if match is None or value is None:
            # Never the line itself: it probably holds a key.
            raise ConfigError(
                f'"{path}:{number}" is not a line of the form NAME=VALUE',
                hint="close quotes on the same line, start a comment with #",
            )
        values[match[1]] = value
    return values


def _dotenv_value(text: str) -> str | None:
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", text)
    match = _QUOTED.fullmatch(text)
    if match is None:
        return None
    if match["single"] is not None:
        return match["single"]
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), match["double"])


def _lookup(names: tuple[str, ...], root: Path | None) -> tuple[str, str] | None:
    """(value, where it is from); an empty value counts as not set."""
    for name in names:
        if value := os.environ.get(name):
            return value, f'the environment variable "{name}"'
    path = (root or _root_of(Path.cwd())) / ".env"
    values = _parsed(path, _parse_dotenv) or {}
    for name in names:
        if value := values.get(name):
            return value, f'"{name}" in "{path}"'
    return None


def dotenv(root: str | os.PathLike[str]) -> dict[str, str]:
    """The variables of the `.env` in `root`, to be handed to a process and not kept."""
    return dict(_parsed(Path(root).absolute() / ".env", _parse_dotenv) or {})


def file_settings(root: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file of settings in `root` says, and nothing else does. Raises ConfigError."""
    return {name: value for (name, _), value in _file_settings(Path(root).absolute())}


_roots: dict[Path, tuple[float, Path]] = {}


def _root_of(folder: Path) -> Path:
    """`project_root` for look-ups at every model call: walking up the tree costs more than they do,
    so a settings file that is new in the tree counts a second later.
    """
    now = time.monotonic()
    known = _roots.get(folder)
    if known is None or now - known[0] > 1.0:
        known = _roots[folder] = (now, project_root(folder))
    return known[1]


def variable(*names: str, root: Path | None = None) -> str | None:
    """The first of `names` set in the environment, else in the `.env` of the project root."""
    found = _lookup(names, root)
    return found[0] if found else None


def secret(*names: str, root: Path | None = None) -> Secret | None:
    """The same of a key, which may also be in the keyring (`%mastra key`)."""
    if found := _lookup(names, root):
        return Secret(found[0])
    kept = next((value for name in names if (value := _keyring.find(name))), None)
    return Secret(kept) if kept else None


def secret_source(*names: str, root: Path | None = None) -> str:
    """Where `secret` has it from, nothing if there is none."""
    if found := _lookup(names, root):
        return found[1]
    return "keyring" if any(_keyring.find(name) for name in names) else ""


# --- settings --------------------------------------------------------------------------------

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Dollars = Annotated[float, msgspec.Meta(ge=0)]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars per million tokens. `cached` is for input read from a prompt cache, `cache_write`
    for input written to one; None costs what other input does. A request with more than `above`
    input tokens costs `long` throughout.
    """

    input: _Dollars
    output: _Dollars
    cached: _Dollars | None = None
    cache_write: _Dollars | None = None
    above: int | None = None
    long: Price | None = None


_PerMinute = Annotated[float, msgspec.Meta(gt=0)] | None


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account may send in a minute; None is no limit."""

    requests_per_minute: _PerMinute = None
    tokens_per_minute: _PerMinute = None


_Days = Annotated[float, msgspec.Meta(ge=0)] | None


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `prune` deletes, by age in days since the last change; None keeps it for ever.

    `runs` are those that have ended and whose messages are in no thread; `threads` go with their
    messages and the runs that held them. A suspended run waits for a person: it goes, and lets its
    thread go, only after `suspended` days. `embeddings` are counted from their last use, which is
    written down once a day.
    """

    runs: _Days = None
    threads: _Days = None
    suspended: _Days = None
    embeddings: _Days = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`model` is "provider/name", `storage` a URL; timeouts are in seconds. `app` is what the
    command line loads where nothing is named: "app.py", "app.py:name" or "analyst.ipynb".

    `rate_limits` are by "provider/name" for one model, or by "provider" for all of its models
    together; every run of the process counts against them.

    `image_hosts` are the hosts whose images a model's Markdown may load. `prices` say what models
    cost, by "provider/model"; the variable names a TOML or JSON file of them. `retention` is what
    `app.prune()` goes by.
    """

    model: str | None = None
    storage: str | None = None
    app: str | None = None
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "warning"
    log_format: Literal["text", "json"] = "text"
    replay: Literal["off", "record", "only", "auto"] = "off"
    max_steps: Annotated[int, msgspec.Meta(ge=1)] = 10
    idle_timeout: _Seconds = 60.0
    tool_timeout: _Seconds = 60.0
    image_hosts: tuple[str, ...] = ()
    rate_limits: dict[str, RateLimit] = {}
    prices: dict[str, Price] = {}
    retention: Retention = Retention()

    def __repr__(self) -> str:
        # A storage URL may hold a password.
        inner = ", ".join(f"{n}={getattr(self, n)!r}" for n in self.__struct_fields__)
        return redact(f"Settings({inner})")

    def __rich_repr__(self) -> Any:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            yield name, redact(value) if isinstance(value, str) else value


_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}
_ALLOWED = {
    "max_steps": "a whole number from 1",
    "idle_timeout": "a number of seconds above 0",
    "tool_timeout": "a number of seconds above 0",
    "image_hosts": "host names: a list, or in a variable separated by commas",
    "rate_limits": 'by model, such as {"openai/gpt-4o-mini": {"requests_per_minute": 500}}',
    "prices": 'for "provider/model" dollars per million tokens: { input = 0.5, output = 1.5 }',
    "retention": "days from 0 for runs, threads, suspended and embeddings: { runs = 30 }",
}
_SHARED_VARIABLES = {"storage": "DATABASE_URL", "log_level": "LOG_LEVEL"}


def load_settings(root: str | os.PathLike[str] | None = None, **overrides: Any) -> Settings:
    """Settings of the project at `root` (default: `project_root()`).

    An override of None counts as not given. Raises ConfigError for an unknown key or a value that
    does not fit, naming the file or variable it is from.
    """
    folder = project_root() if root is None else Path(root).absolute()
    values: dict[str, Any] = {}
    for key, value in _file_settings(folder):
        values[key[0]] = _convert(key[0], value, key[1])
    for name in _FIELDS:
        variables = [f"MASTRA_NB_{name.upper()}"]
        if name in _SHARED_VARIABLES:
            variables.append(_SHARED_VARIABLES[name])
        if found := _lookup(tuple(variables), folder):
            if name == "prices":
                values[name] = _convert(name, *_prices_file(folder, *found))
            else:
                values[name] = _convert(name, found[0], found[1], text=True)
    for name, value in overrides.items():
        if name not in _FIELDS:
            raise _unknown(name, "the arguments")
        if value is not None:
            values[name] = _convert(name, value, f'the argument "{name}"')
    return Settings(**values)


def _file_settings(folder: Path) -> list[tuple[tuple[str, str], Any]]:
    tables = [
        (path, table)
        for path in (folder / name for name in _FILES)
        if (table := _parsed(path, _parse_settings)) is not None
    ]
    if len(tables) > 1:
        names = " and ".join(f'"{path.name}"' for path, _ in tables)
        raise ConfigError(f'{names} in "{folder}" both hold settings', hint="keep them in one file")
    found: list[tuple[tuple[str, str], Any]] = []
    for path, table in tables:
        for key, value in table.items():
            if key not in _FIELDS:
                raise _unknown(key, f'"{path}"')
            found.append(((key, f'"{key}" in "{path}"'), value))
    return found


def _prices_file(folder: Path, name: str, where: str) -> tuple[dict[str, Any], str]:
    """A relative path is relative to the project."""
    path = folder / Path(name).expanduser()
    table = _parsed(path, _parse_settings)
    if table is None:
        raise ConfigError(
            f'{where} names "{path}", which is no file', hint="a TOML or JSON file of prices"
        )
    return table, f'"{path}"'


def _unknown(key: str, where: str) -> ConfigError:
    return ConfigError(f'{where} has an unknown setting "{key}"', hint=close_matches(key, _FIELDS))


def _convert(name: str, value: Any, where: str, *, text: bool = False) -> Any:
    if name == "log_level" and isinstance(value, str):
        value = value.lower()
        value = {"warn": "warning", "fatal": "critical"}.get(value, value)
    if name == "image_hosts" and text:
        value = [host.strip() for host in value.split(",") if host.strip()]
    try:
        if name in ("rate_limits", "retention") and text:
            return msgspec.json.decode(value, type=_FIELDS[name].type)
        return msgspec.convert(value, _FIELDS[name].type, strict=not text)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{where} is {redact(repr(value))}", hint=f"allowed: {_allowed(name)}"
        ) from error


def _allowed(name: str) -> str:
    choices = getattr(_FIELDS[name].type, "__args__", ())
    if all(isinstance(c, str) for c in choices) and choices:
        return ", ".join(f'"{c}"' for c in choices)
    return _ALLOWED.get(name, "a text")


def default_storage(settings: Settings, root: str | os.PathLike[str]) -> str:
    """The URL of the store: a relative SQLite path is relative to `root`, not to the notebook."""
    url = settings.storage or "sqlite:///mastra.db"
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator or not path or path.startswith(":memory:"):
        return url
    if PurePath(path).is_absolute():
        return url
    return f"sqlite:///{(Path(root).absolute() / path).as_posix()}"


# --- logging ---------------------------------------------------------------------------------

_LOGGER = "mastra_nb"
_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_SECRET_KEY = re.compile(r"(api_?key|authorization|password|secret|token)$", re.IGNORECASE)


def _clean(value: Any, key: object = "") -> Any:
    """A JSON value without secrets."""
    if _SECRET_KEY.search(str(key)):
        return _MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_clean(k): _clean(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(repr(value))


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _RECORD_FIELDS}


class _Redactor(logging.Filter):
    """Rewrites the record itself, so that handlers of the user's see no secret either."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg!s} {record.args!r}"
        record.msg, record.args = redact(message), None
        for key, value in _extras(record).items():
            record.__dict__[key] = _clean(value, key)
        if record.exc_info and not record.exc_text:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = "".join(f" {k}={v}" for k, v in _extras(record).items())
        return super().formatMessage(record) + extras


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_text:
            line["error"] = record.exc_text
        return json.dumps({**_extras(record), **line}, ensure_ascii=False)


class _Handler(logging.Handler):
    """Writes to the standard error of the moment: a kernel replaces it for each cell."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


_redactor = _Redactor()
logging.getLogger(_LOGGER).addHandler(logging.NullHandler())


def get_logger(name: str = _LOGGER) -> logging.Logger:
    """The package's logger, or the one called `name` below it."""
    if name != _LOGGER and not name.startswith(_LOGGER + "."):
        name = f"{_LOGGER}.{name}"
    logger = logging.getLogger(name)
    logger.addFilter(_redactor)
    return logger


def configure_logging(settings: Settings) -> None:
    """Write the package's log to standard error. Only our logger is changed, never the root."""
    logger = get_logger()
    handler = next((h for h in logger.handlers if isinstance(h, _Handler)), None)
    if handler is None:
        handler = _Handler()
        handler.addFilter(_redactor)
        logger.addHandler(handler)
        # Else a root handler of the user's would print each line a second time.
        logger.propagate = False
    handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else _TextFormatter())
    logger.setLevel(settings.log_level.upper())
