from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mastra_nb import config
from mastra_nb.config import (
    RateLimit,
    Secret,
    Settings,
    configure_logging,
    default_storage,
    get_logger,
    load_settings,
    project_root,
    redact,
    secret,
    variable,
)
from mastra_nb.errors import ConfigError, UsageError

CANARY = "canary-3f9a71-value"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder is the current one, and no setting comes from who runs the tests."""
    for name in list(os.environ):
        if name.startswith("MASTRA_NB_") or name in {"DATABASE_URL", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- secrets ---


def test_a_secret_prints_nowhere() -> None:
    s = Secret(CANARY)
    shown = [repr(s), str(s), f"{s}", f"{s!r:>30}", "%s" % s, repr([s]), repr({"k": s})]  # noqa: UP031
    assert not any(CANARY in text for text in shown)
    assert str(s) == "***"
    assert s.reveal() == CANARY
    assert not hasattr(s, "__dict__")


def test_a_secret_equals_only_itself() -> None:
    s = Secret(CANARY)
    assert s == s
    assert s != Secret(CANARY)
    assert s != CANARY
    assert copy.copy(s) is s
    assert copy.deepcopy({"k": s})["k"] is s
    assert bool(s)
    assert not Secret("")


def test_a_secret_does_not_travel() -> None:
    s = Secret(CANARY)
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(s)
    with pytest.raises(TypeError):
        json.dumps(s)
    with pytest.raises(TypeError):
        msgspec.json.encode(s)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("key sk-proj-abcDEF123456 used", "abcDEF123456"),
        ("Authorization: Bearer abc.def-ghi123", "abc.def-ghi123"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("postgresql://me:hunter22@db/x", "hunter22"),
        ("GET https://x.test/v1?api_key=abcd1234&y=1", "abcd1234"),
        ("AIzaSyA1234567890abcdefghijk", "SyA1234567890"),
        ("gsk_abcdefgh12345678", "abcdefgh12345678"),
        ("ghp_abcdefgh12345678", "abcdefgh12345678"),
    ],
)
def test_what_looks_like_a_key_is_redacted(text: str, hidden: str) -> None:
    assert hidden not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    ["scikit-learn and hf_hub_download", "risk-free disk_usage_total", "https://x.test/a?b=c"],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


@given(st.text(min_size=8), st.text(), st.text())
def test_a_known_secret_is_gone(value: str, before: str, after: str) -> None:
    known = set(config._known_secrets)
    try:
        Secret(value)
        redacted = redact(before + value + after)
        assert value not in redacted or value in "***" * 9
    finally:
        config._known_secrets.intersection_update(known)


# --- .env ---


def test_the_environment_wins_and_is_read_at_call_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".env").write_text("MNB_A=file\nMNB_B=file b\n")
    assert variable("MNB_A") == "file"
    monkeypatch.setenv("MNB_A", "environment")
    assert variable("MNB_A") == "environment"
    monkeypatch.setenv("MNB_A", "")
    assert variable("MNB_A") == "file"
    assert variable("MNB_X", "MNB_B") == "file b"
    assert variable("MNB_X") is None
    assert secret("MNB_X") is None
    found = secret("MNB_X", "MNB_A")
    assert found is not None
    assert found.reveal() == "file"


def test_a_changed_file_is_read_again(project: Path) -> None:
    file = project / ".env"
    assert variable("MNB_A") is None
    file.write_text("MNB_A=1")
    assert variable("MNB_A") == "1"
    file.write_text("MNB_A=22")
    assert variable("MNB_A") == "22"
    file.unlink()
    assert variable("MNB_A") is None


def test_an_unchanged_file_is_not_read_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".env").write_text("MNB_A=1")
    assert variable("MNB_A") == "1"
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: 1 / 0)
    assert variable("MNB_A") == "1"


def test_a_folder_called_dotenv_is_no_file(project: Path) -> None:
    (project / ".env").mkdir()
    assert variable("MNB_A") is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("  A = b  ", "b"),
        ("A=", ""),
        ("A=# nothing", ""),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=two words", "two words"),
        ("A='single $x \\n # \"'  # comment", 'single $x \\n # "'),
        ('A="double # \\"x\\" \\n\\t\\\\ \'"', 'double # "x" \n\t\\ \''),
        ('A={"json": 1}', '{"json": 1}'),
        ("A=sk=a==", "sk=a=="),
        ("\ufeffA=b\r", "b"),
    ],
)
def test_lines(project: Path, line: str, value: str) -> None:
    (project / ".env").write_bytes(f"{line}\n# comment\n\n".encode())
    assert (variable("A") or "") == value


@pytest.mark.parametrize(
    "line",
    [
        CANARY,
        f"1A={CANARY}",
        f"A {CANARY}=x",
        f"={CANARY}",
        f"- A={CANARY}",
        f"A='{CANARY}",
        f'A="{CANARY}',
        f'A="{CANARY}\\"',
        f'A="{CANARY}" y',
        f"A='{CANARY}'y",
    ],
)
def test_a_bad_line_is_named_without_its_content(project: Path, line: str) -> None:
    (project / ".env").write_text(f"OK={CANARY}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        variable("A")
    assert '.env:2"' in caught.value.message
    assert CANARY not in str(caught.value)


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\n\r")))
def test_single_quotes_keep_everything(value: str) -> None:
    assert config._parse_dotenv(Path(".env"), f"A='{value}'") == {"A": value}


# --- the root ---


def test_project_root(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    assert project_root(deep) == deep
    (project / "pyproject.toml").write_text("[tool.other]\nmastra = 1\n")
    assert project_root(deep) == deep
    (project / "pyproject.toml").write_text("[tool.mastra]\n")
    assert project_root(deep) == project
    assert project_root(deep / "x.ipynb") == project
    (project / "a" / "mastra.json").write_text("{}")
    assert project_root(deep) == project / "a"
    (deep / "mastra.toml").write_text("")
    assert project_root(deep) == deep
    assert project_root() == project


def test_a_broken_pyproject_of_others_is_not_ours(project: Path) -> None:
    (project / "pyproject.toml").write_text("not toml at all [")
    assert project_root() == project
    assert load_settings() == Settings()


# --- settings ---


def test_precedence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().model is None
    (project / "mastra.toml").write_text('model = "from/toml"\nimage_hosts = ["a.test"]\n')
    assert load_settings().model == "from/toml"
    (project / ".env").write_text("MASTRA_NB_MODEL=from/dotenv\n")
    assert load_settings().model == "from/dotenv"
    monkeypatch.setenv("MASTRA_NB_MODEL", "from/environment")
    assert load_settings().model == "from/environment"
    assert load_settings(model="from/argument").model == "from/argument"
    assert load_settings(model=None).model == "from/environment"
    assert load_settings().image_hosts == ("a.test",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mastra.toml", "max_steps = 3\nidle_timeout = 5\n"),
        ("mastra.json", '{"max_steps": 3, "idle_timeout": 5}'),
        ("pyproject.toml", "[tool.mastra]\nmax_steps = 3\nidle_timeout = 5\n"),
    ],
)
def test_files(project: Path, name: str, text: str) -> None:
    (project / name).write_text(text)
    inner = project / "notebooks"
    inner.mkdir()
    os.chdir(inner)
    settings = load_settings()
    assert (settings.max_steps, settings.idle_timeout) == (3, 5.0)


def test_two_files_are_one_too_many(project: Path) -> None:
    (project / "mastra.toml").write_text("")
    (project / "mastra.json").write_text("{}")
    with pytest.raises(ConfigError, match='"mastra.toml" and "mastra.json"'):
        load_settings()


def test_variables(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///shared.db")
    monkeypatch.setenv("LOG_LEVEL", "WARN")
    monkeypatch.setenv("MASTRA_NB_MAX_STEPS", "7")
    monkeypatch.setenv("MASTRA_NB_TOOL_TIMEOUT", "2.5")
    monkeypatch.setenv("MASTRA_NB_IMAGE_HOSTS", "a.test, b.test,")
    settings = load_settings()
    assert settings == Settings(
        storage="sqlite:///shared.db",
        log_level="warning",
        max_steps=7,
        tool_timeout=2.5,
        image_hosts=("a.test", "b.test"),
    )
    monkeypatch.setenv("MASTRA_NB_STORAGE", "sqlite:///ours.db")
    monkeypatch.setenv("MASTRA_NB_LOG_LEVEL", "debug")
    assert load_settings().storage == "sqlite:///ours.db"
    assert load_settings().log_level == "debug"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MASTRA_NB_REPLAY", "yes", '"off", "record", "only", "auto"'),
        ("MASTRA_NB_LOG_FORMAT", "xml", '"text", "json"'),
        ("LOG_LEVEL", "loud", '"debug", "info"'),
        ("MASTRA_NB_MAX_STEPS", "0", "a whole number from 1"),
        ("MASTRA_NB_MAX_STEPS", "many", "a whole number from 1"),
        ("MASTRA_NB_IDLE_TIMEOUT", "-1", "seconds above 0"),
    ],
)
def test_a_bad_variable(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert f"the environment variable \"{name}\" is '{value}'" in caught.value.message
    assert allowed in caught.value.hint
    monkeypatch.delenv(name)
    (project / ".env").write_text(f"{name}={value}")
    with pytest.raises(ConfigError, match=r'\.env" is'):
        load_settings()


def test_a_bad_file(project: Path) -> None:
    file = project / "mastra.toml"
    file.write_text("max_stepz = 3\n")
    with pytest.raises(ConfigError, match='mastra.toml" has an unknown setting "max_stepz"') as e:
        load_settings()
    assert '"max_steps"' in e.value.hint
    file.write_text("max_steps = true\n")
    with pytest.raises(ConfigError, match='"max_steps" in ".*mastra.toml" is True'):
        load_settings()
    file.write_text("max_steps = ")
    with pytest.raises(ConfigError, match=r'mastra.toml" is not valid TOML'):
        load_settings()
    file.write_bytes(b"model = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings()
    file.unlink()
    (project / "mastra.json").write_text("[]")
    with pytest.raises(ConfigError, match="table of settings"):
        load_settings()


def test_a_bad_argument() -> None:
    with pytest.raises(ConfigError, match='the arguments has an unknown setting "modle"') as e:
        load_settings(modle="x")
    assert '"model"' in e.value.hint
    with pytest.raises(ConfigError, match='the argument "replay" is'):
        load_settings(replay="maybe")


def test_a_password_in_the_storage_url_is_not_shown() -> None:
    settings = Settings(storage="postgresql://me:hunter22@db/x")
    assert "hunter22" not in repr(settings)
    assert "hunter22" not in repr(list(settings.__rich_repr__()))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "sqlite:////p/r/mastra.db"),
        ("sqlite:///data/x.db", "sqlite:////p/r/data/x.db"),
        ("sqlite:////abs/x.db", "sqlite:////abs/x.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("memory:", "memory:"),
        ("postgresql://h/d", "postgresql://h/d"),
    ],
)
def test_default_storage(url: str | None, expected: str) -> None:
    assert default_storage(Settings(storage=url), Path("/p/r")) == expected


# --- logging ---


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to standard error since the last call."""
    logger = logging.getLogger("mastra_nb")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield lambda: capsys.readouterr().err
    logger.level, logger.propagate, logger.handlers = before


def test_silent_until_configured(log: Callable[[], str]) -> None:
    get_logger().warning("x")
    assert log() == ""
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("mastra_nb").handlers)


def test_text(log: Callable[[], str]) -> None:
    root = (logging.root.level, list(logging.root.handlers))
    configure_logging(Settings(log_level="info"))
    configure_logging(Settings(log_level="info"))
    get_logger("loop").info("step %d", 2, extra={"run": "r_1"})
    get_logger().debug("not shown")
    written = log()
    assert written.count("\n") == 1
    assert written.endswith("INFO    mastra_nb.loop: step 2 run=r_1\n")
    assert (logging.root.level, logging.root.handlers) == root


def test_json(log: Callable[[], str]) -> None:
    configure_logging(Settings(log_format="json"))
    try:
        raise ValueError(CANARY)
    except ValueError:
        Secret(CANARY)
        get_logger().exception("failed", extra={"run": "r_1", "span": "root/a", "n": 3})
    line = json.loads(log())
    assert line.items() >= {
        "level": "error", "logger": "mastra_nb", "message": "failed", "run": "r_1",
        "span": "root/a", "n": 3,
    }.items()  # fmt: skip
    assert line["time"].endswith("+00:00")
    assert "ValueError: ***" in line["error"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_in_the_log(log: Callable[[], str], form: str) -> None:
    configure_logging(load_settings(log_format=form))
    s = Secret(CANARY)
    logger = get_logger("http")
    logger.warning("key %s and %s", CANARY, s)
    logger.warning("bad %d", CANARY)
    logger.warning(
        "x", extra={"headers": {"Authorization": "zz9"}, "deep": [{"k": CANARY}], "s": s}
    )
    logger.warning("x", extra={"api_key": "zz9", "who": object()})
    logging.getLogger("mastra_nb.plain").warning(CANARY)
    written = log()
    assert written.count("\n") == 5
    assert CANARY not in written
    assert "zz9" not in written


def test_handlers_of_the_user_see_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    Secret(CANARY)
    get_logger("x").warning("key %s", CANARY, extra={"key": CANARY})
    assert CANARY not in caplog.text
    assert CANARY not in str(vars(caplog.records[0]))


def test_the_stream_is_the_current_one(
    log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(Settings())
    other = io.StringIO()
    monkeypatch.setattr(sys, "stderr", other)
    get_logger().warning("later")
    assert log() == ""
    assert "later" in other.getvalue()


def test_rate_limits_come_from_files_and_as_json_from_variables(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mastra.toml").write_text(
        '[rate_limits."openai/gpt-4o-mini"]\nrequests_per_minute = 500\n'
    )
    limits = load_settings(project).rate_limits
    assert limits == {"openai/gpt-4o-mini": RateLimit(requests_per_minute=500)}
    monkeypatch.setenv("MASTRA_NB_RATE_LIMITS", '{"groq": {"tokens_per_minute": 6000}}')
    assert load_settings(project).rate_limits == {"groq": RateLimit(tokens_per_minute=6000)}
    for wrong in ("fast", '{"groq": {"requests_per_minute": 0}}', '{"groq": {"rpm": 1}}'):
        monkeypatch.setenv("MASTRA_NB_RATE_LIMITS", wrong)
        with pytest.raises(ConfigError, match="MASTRA_NB_RATE_LIMITS") as caught:
            load_settings(project)
        assert "requests_per_minute" in caught.value.hint
