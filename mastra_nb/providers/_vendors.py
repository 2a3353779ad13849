"""Services that speak chat completions, as data: where they are and where they differ.

Sources: each vendor's API reference for chat completions, and their answers as recorded by
public test suites.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from mastra_nb.models import Profile

Levels = Mapping[str, Mapping[str, Any]]
"""What the request says for "off", "low", "medium" and "high"; a level that is not there cannot
be asked for."""


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """A service. The names of variables are tried in order.

    `url_path` completes an address from `url_env` that has no path. `echo` says under which key
    the reasoning of the current turn goes back to it ("thinking": as content parts), `echo_all`
    that of every turn. `fetch` is the command that gets a model, `port` what plain HTTP means
    without one. `limit_key` is the field of the token limit, "" to choose by model.
    `lacks` are settings it does not have, by their names in the request. `files` are media
    beside images that those which see also read. `embed_bytes` is how much text one request for
    embeddings may hold. Patterns of model names: `fixed` those whose sampling cannot be set,
    `json_schema` those that hold an answer to a schema, `responses` those that want the
    Responses API at the vendor's own address, `thinking` what asks them to think.
    """

    name: str
    base_url: str = ""
    key_env: tuple[str, ...] = ()
    url_env: tuple[str, ...] = ()
    url_path: str = "/v1"
    needs_key: bool = True
    start: str = ""
    fetch: str = ""
    port: int | None = None
    slow_start: bool = False
    auth_header: str = "authorization"
    limit_key: Literal["", "max_tokens", "max_completion_tokens"] = "max_tokens"
    seed_key: str = "seed"
    stream: bool = True
    stream_usage: bool = True
    json_schema: tuple[str, ...] = ("*",)
    json_with_tools: bool = True
    lacks: frozenset[str] = frozenset({"top_k"})
    fixed: tuple[str, ...] = ()
    thinking: tuple[tuple[str, Levels], ...] = ()
    responses: tuple[str, ...] = ()
    version_env: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    embed_base64: bool = False
    embed_bytes: int = 48_000
    dimensions_key: str = "dimensions"
    echo: Literal["", "reasoning", "reasoning_content", "reasoning_details", "thinking"] = ""
    echo_all: bool = False
    short_ids: bool = False
    reports_cost: bool = False


def _effort(**names: str) -> Levels:
    return {level: {"reasoning_effort": name} for level, name in names.items()}


def _without(*names: str) -> frozenset[str]:
    return frozenset(names)


_PENALTIES = ("presence_penalty", "frequency_penalty")
_EFFORT = _effort(off="none", low="low", medium="medium", high="high")
_EFFORT_ON = _effort(low="low", medium="medium", high="high")
_ON_OFF = _effort(off="none", low="high", medium="high", high="high")
_OPENAI_THINKING: tuple[tuple[str, Levels], ...] = (
    ("*-pro*", _EFFORT_ON),
    ("*codex*", _EFFORT_ON),
    ("*-chat-latest", {}),
    ("gpt-5.[1-9]*", _EFFORT),
    ("gpt-[6-9]*", _EFFORT),
    ("gpt-5*", _effort(off="minimal", low="low", medium="medium", high="high")),
    ("o[1-9]*", _EFFORT_ON),
    ("gpt-oss*", _EFFORT_ON),
)
_SWITCH: Levels = {
    "off": {"thinking": {"type": "disabled"}},
    "low": {"thinking": {"type": "enabled"}},
    "medium": {"thinking": {"type": "enabled"}},
    "high": {"thinking": {"type": "enabled"}},
}
_TEMPLATE: Levels = {
    level: {"chat_template_kwargs": {"enable_thinking": level != "off"}}
    for level in ("off", "low", "medium", "high")
}


def _local(
    name: str,
    base_url: str,
    url_env: tuple[str, ...],
    start: str,
    *,
    lacks: frozenset[str] = frozenset(),
    thinking: tuple[tuple[str, Levels], ...] = (),
) -> Vendor:
    return Vendor(
        name=name,
        base_url=base_url,
        url_env=url_env,
        key_env=(f"{name.upper()}_API_KEY",),
        needs_key=False,
        start=start,
        slow_start=True,
        lacks=lacks,
        thinking=thinking,
    )


_OLLAMA = Vendor(
    name="ollama",
    base_url="http://127.0.0.1:11434/v1",
    url_env=("OLLAMA_BASE_URL", "OLLAMA_HOST"),
    key_env=("OLLAMA_API_KEY",),
    needs_key=False,
    start="start it with `ollama serve`",
    fetch="ollama pull",
    port=11434,
    slow_start=True,
    lacks=_without("top_k", "parallel_tool_calls"),
    thinking=(("*", _EFFORT),),
)

_ROWS = (
    Vendor(
        name="openai",
        embed_base64=True,
        embed_bytes=300_000,
        base_url="https://api.openai.com/v1",
        key_env=("OPENAI_API_KEY",),
        url_env=("OPENAI_BASE_URL",),
        limit_key="",
        thinking=_OPENAI_THINKING,
        responses=("gpt-[5-9]*", "o[1-9]*", "*codex*", "*-pro", "*-pro-20*", "*deep-research*"),
        files=("application/pdf",),
    ),
    Vendor(
        name="openai-compatible",
        key_env=("OPENAI_API_KEY",),
        url_env=("OPENAI_BASE_URL",),
        limit_key="",
        needs_key=False,
        slow_start=True,
        thinking=_OPENAI_THINKING,
    ),
    Vendor(
        name="azure",
        embed_base64=True,
        embed_bytes=300_000,
        key_env=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        url_env=("AZURE_OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"),
        url_path="/openai/v1",
        version_env=("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION", "AZURE_API_VERSION"),
        auth_header="api-key",
        limit_key="",
        thinking=_OPENAI_THINKING,
    ),
    Vendor(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        key_env=("GROQ_API_KEY",),
        url_env=("GROQ_BASE_URL",),
        url_path="/openai/v1",
        lacks=_without("top_k", *_PENALTIES),
        json_schema=("gpt-oss*", "llama-4*", "kimi-k2*", "qwen3.*"),
        json_with_tools=False,
        thinking=(
            ("gpt-oss*", _EFFORT_ON),
            ("qwen3.*", _EFFORT),
            ("qwen*", _effort(off="none", low="default", medium="default", high="default")),
        ),
    ),
    Vendor(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        key_env=("MISTRAL_API_KEY",),
        url_env=("MISTRAL_BASE_URL",),
        seed_key="random_seed",
        dimensions_key="output_dimension",
        stream_usage=False,
        thinking=(
            ("mistral-small-latest", _ON_OFF),
            ("mistral-small-26*", _ON_OFF),
            ("mistral-medium-3[.-]5*", _ON_OFF),
            ("mistral-large-4*", _EFFORT),
        ),
        echo="thinking",
        short_ids=True,
    ),
    Vendor(
        name="deepseek",
        base_url="https://api.deepseek.com/v1",
        key_env=("DEEPSEEK_API_KEY",),
        url_env=("DEEPSEEK_BASE_URL",),
        lacks=_without("top_k", "seed", "parallel_tool_calls"),
        json_schema=(),
        thinking=(
            (
                "*",
                {
                    "off": {"thinking": {"type": "disabled"}},
                    "low": {"thinking": {"type": "enabled"}, "reasoning_effort": "low"},
                    "medium": {"thinking": {"type": "enabled"}, "reasoning_effort": "medium"},
                    "high": {"thinking": {"type": "enabled"}, "reasoning_effort": "high"},
                },
            ),
        ),
        echo="reasoning_content",
        echo_all=True,
    ),
    Vendor(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        key_env=("OPENROUTER_API_KEY",),
        url_env=("OPENROUTER_BASE_URL",),
        url_path="/api/v1",
        lacks=_without(),
        thinking=(
            (
                "*",
                {
                    "off": {"reasoning": {"effort": "none"}},
                    "low": {"reasoning": {"effort": "low"}},
                    "medium": {"reasoning": {"effort": "medium"}},
                    "high": {"reasoning": {"effort": "high"}},
                },
            ),
        ),
        files=("application/pdf",),
        echo="reasoning_details",
        reports_cost=True,
    ),
    Vendor(
        name="together",
        base_url="https://api.together.ai/v1",
        key_env=("TOGETHER_API_KEY",),
        url_env=("TOGETHER_BASE_URL",),
        lacks=_without("parallel_tool_calls"),
        thinking=(
            ("gpt-oss*", _EFFORT_ON),
            (
                "*",
                {
                    "off": {"reasoning": {"enabled": False}},
                    "low": {"reasoning": {"enabled": True}},
                    "medium": {"reasoning": {"enabled": True}},
                    "high": {"reasoning": {"enabled": True}},
                },
            ),
        ),
    ),
    Vendor(
        name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        key_env=("FIREWORKS_API_KEY",),
        url_env=("FIREWORKS_BASE_URL",),
        url_path="/inference/v1",
        lacks=_without(),
        thinking=(("*", _EFFORT),),
    ),
    Vendor(
        name="xai",
        base_url="https://api.x.ai/v1",
        key_env=("XAI_API_KEY",),
        url_env=("XAI_BASE_URL",),
        lacks=_without("top_k", "stop", *_PENALTIES),
        thinking=(
            ("grok-3-mini*", _effort(low="low", medium="high", high="high")),
            ("grok-4.3*", _EFFORT),
            ("grok-4.[5-9]*", _EFFORT_ON),
        ),
    ),
    Vendor(
        name="cerebras",
        base_url="https://api.cerebras.ai/v1",
        key_env=("CEREBRAS_API_KEY",),
        url_env=("CEREBRAS_BASE_URL",),
        limit_key="max_completion_tokens",
        lacks=_without("top_k", *_PENALTIES),
        json_with_tools=False,
        thinking=(("gpt-oss*", _EFFORT_ON), ("zai-glm*", {"off": {"disable_reasoning": True}})),
    ),
    Vendor(
        name="moonshot",
        base_url="https://api.moonshot.ai/v1",
        key_env=("MOONSHOT_API_KEY",),
        url_env=("MOONSHOT_BASE_URL",),
        lacks=_without("top_k", "seed", "parallel_tool_calls"),
        fixed=("kimi-k2.[5-9]*", "kimi-k[3-9]*"),
        thinking=(
            ("kimi-k2.7*", {}),
            ("kimi-k2.*", _SWITCH),
            ("kimi-k[3-9]*", _effort(low="low", medium="high", high="high")),
        ),
        echo="reasoning_content",
        echo_all=True,
    ),
    Vendor(
        name="zai",
        base_url="https://api.z.ai/api/paas/v4",
        key_env=("ZAI_API_KEY", "ZHIPU_API_KEY"),
        url_env=("ZAI_BASE_URL",),
        url_path="/api/paas/v4",
        lacks=_without("top_k", "seed", "parallel_tool_calls", *_PENALTIES),
        json_schema=(),
        thinking=(("glm-4.[5-9]*", _SWITCH), ("glm-[5-9]*", _SWITCH)),
        echo="reasoning_content",
    ),
    Vendor(
        name="huggingface",
        base_url="https://router.huggingface.co/v1",
        key_env=("HF_TOKEN", "HUGGINGFACE_API_KEY"),
        url_env=("HUGGINGFACE_BASE_URL",),
        lacks=_without("top_k", "parallel_tool_calls"),
        thinking=(("gpt-oss*", _EFFORT_ON),),
    ),
    Vendor(
        name="nvidia",
        base_url="https://integrate.api.nvidia.com/v1",
        key_env=("NVIDIA_API_KEY",),
        url_env=("NVIDIA_BASE_URL",),
        thinking=(("gpt-oss*", _EFFORT_ON),),
    ),
    Vendor(
        name="perplexity",
        base_url="https://api.perplexity.ai",
        key_env=("PERPLEXITY_API_KEY",),
        url_env=("PERPLEXITY_BASE_URL",),
        url_path="",
        lacks=_without("seed", "parallel_tool_calls"),
        thinking=(("sonar-deep-research*", _EFFORT_ON), ("sonar-reasoning*", _EFFORT_ON)),
    ),
    _OLLAMA,
    msgspec.structs.replace(_OLLAMA, name="ollama-v1"),
    _local(
        "lmstudio",
        "http://127.0.0.1:1234/v1",
        ("LMSTUDIO_BASE_URL",),
        "start its server with `lms server start`",
        lacks=_without("parallel_tool_calls"),
        thinking=(("*gpt-oss*", _EFFORT_ON),),
    ),
    _local(
        "llamacpp",
        "http://127.0.0.1:8080/v1",
        ("LLAMACPP_BASE_URL",),
        "start it with `llama-server -m model.gguf`",
        thinking=(("*", _TEMPLATE),),
    ),
    _local(
        "vllm",
        "http://127.0.0.1:8000/v1",
        ("VLLM_BASE_URL",),
        "start it with `vllm serve <model>`",
        thinking=(("*gpt-oss*", _EFFORT_ON), ("*", _TEMPLATE)),
    ),
)

VENDORS = {row.name: row for row in _ROWS}


def full_url(value: str, vendor: Vendor) -> str:
    """A base URL from what a variable holds: a URL, "host:port" or, for Ollama, "0.0.0.0"."""
    return _full_url(value, vendor.url_path, vendor.port)


@functools.lru_cache
def _full_url(value: str, url_path: str, default_port: int | None) -> str:
    value = value.strip().rstrip("/")
    if "://" not in value:
        value = f"http://{value}"
    parts = urlsplit(value)
    host, port = parts.hostname or "", parts.port
    if host in ("0.0.0.0", "::"):  # noqa: S104 (where a server listens; a client needs a host)
        host = "127.0.0.1"
    if port is None and parts.scheme == "http":
        port = default_port
    shown = f"[{host}]" if ":" in host else host
    netloc = f"{shown}:{port}" if port is not None else shown
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/') or url_path}{query}"


def address(base_url: str, path: str, model_id: str, version: str = "") -> str:
    """Where a request goes. Azure with a dated version of its API has the model in the path, but
    only for what had a deployment before there was Responses.
    """
    base, _, query = base_url.partition("?")
    if "api-version=" in query:
        version = query.partition("api-version=")[2].partition("&")[0]
    elif version:
        query = f"{query}&api-version={version}" if query else f"api-version={version}"
    dated = version[:4].isdecimal()
    root, _, deployment = base.partition("/deployments/")
    if dated and not deployment:
        root = root.removesuffix("/v1")
    if deployment or dated:
        name = deployment.strip("/") or model_id
        base = f"{root}/deployments/{name}" if path in _OF_A_DEPLOYMENT else root
    return f"{base}{path}?{query}" if query else base + path


_OF_A_DEPLOYMENT = ("/chat/completions", "/embeddings")


def limit_key(vendor: Vendor, model_id: str) -> str:
    if vendor.limit_key:
        return vendor.limit_key
    thinks = any(fnmatch.fnmatchcase(_name(model_id), p) for p in ("o[1-9]*", "gpt-[5-9]*"))
    return "max_completion_tokens" if thinks else "max_tokens"


def thinking(vendor: Vendor, model_id: str, level: str | None) -> Mapping[str, Any]:
    """What the body says to ask for this much thought; nothing where that cannot be asked."""
    if level is None:
        return {}
    name = _name(model_id)
    levels: Levels = next((v for p, v in vendor.thinking if fnmatch.fnmatchcase(name, p)), {})
    return levels.get(level, {})


def caching(vendor: Vendor, model_id: str, wanted: bool | None) -> Mapping[str, Any]:
    """All of these cache by themselves; only OpenAI's newer models can be told not to."""
    forbid = wanted is False and vendor.limit_key == ""
    if forbid and re.match(r"gpt-(5\.[6-9]|[6-9])", _name(model_id)):
        return {"prompt_cache_options": {"mode": "explicit"}}
    return {}


def lacks(vendor: Vendor, model_id: str, level: str | None) -> frozenset[str]:
    """The settings that a request must not have, by their names in it."""
    if any(fnmatch.fnmatchcase(_name(model_id), pattern) for pattern in vendor.fixed):
        return vendor.lacks | {"temperature", "top_p", *_PENALTIES}
    if vendor.limit_key != "" or not _FIXED.match(_name(model_id)):
        return vendor.lacks
    if _name(model_id).startswith(("gpt-5.1", "gpt-5.2", "gpt-5.4")):
        sampling = level in (None, "off")
    else:
        sampling = level == "off" and _name(model_id).startswith("gpt-5.")
    return vendor.lacks | {"stop"} if sampling else vendor.lacks | _SAMPLING


def holds_schema(vendor: Vendor, model_id: str) -> bool:
    name = _name(model_id)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in vendor.json_schema)


def _name(model_id: str) -> str:
    return model_id.rpartition("/")[2].lower()


# OpenAI refuses sampling parameters while these think.
_FIXED = re.compile(r"o[1-9]|gpt-[5-9](?!.*-chat-latest)")
_SAMPLING = frozenset({"temperature", "top_p", "stop", *_PENALTIES})
_SEES = (
    "gpt-4o*", "gpt-4.*", "gpt-4-turbo*", "gpt-[5-9]*", "chatgpt-*", "o1", "o1-20*", "o3*", "o4*",
    "claude-*", "gemini-*", "gemma-3*", "gemma3*", "llava*", "pixtral*", "mistral-medium*",
    "mistral-small*", "llama-4*", "llama4*", "*vision*", "*-vl*", "*vl:*", "grok-4*",
    "kimi-k2.[5-9]*", "kimi-k[3-9]*",
)  # fmt: skip
_THINKS = (
    "o1*", "o3*", "o4*", "gpt-[5-9]*", "gpt-oss*", "deepseek-r*", "deepseek-v4*", "qwq*", "qwen3*",
    "magistral*", "*thinking*", "glm-4.[5-9]*", "glm-[5-9]*", "grok-[34]*",
    "*reason*", "minimax*", "kimi-k2.[5-9]*", "kimi-k[3-9]*",
)  # fmt: skip
_CONTEXT = (
    ("gpt-4.1*", 1_047_576),
    ("gpt-5*", 400_000),
    ("o[134]*", 200_000),
    ("gpt-4o*", 128_000),
    ("gpt-4-turbo*", 128_000),
    ("gpt-oss*", 131_072),
    ("gpt-4", 8_192),
    ("gpt-3.5-turbo*", 16_385),
)
_MAX_OUTPUT = (
    ("gpt-5*-chat*", 16_384),
    ("gpt-5*", 128_000),
    ("o[134]*", 100_000),
    ("gpt-4.1*", 32_768),
    ("gpt-4o*", 16_384),
    ("gpt-4-turbo*", 4_096),
    ("gpt-3.5-turbo*", 4_096),
)


def profile(vendor: Vendor, model_id: str) -> Profile:
    """What is known of a model from its name, and nothing that is not."""
    name = _name(model_id)
    sees = any(fnmatch.fnmatchcase(name, pattern) for pattern in _SEES)
    return Profile(
        json_schema=holds_schema(vendor, model_id),
        json_with_tools=vendor.json_with_tools,
        reasoning=any(fnmatch.fnmatchcase(name, pattern) for pattern in _THINKS),
        media=("image/*", *vendor.files) if sees else (),
        context=next((n for p, n in _CONTEXT if fnmatch.fnmatchcase(name, p)), None),
        max_output=next((n for p, n in _MAX_OUTPUT if fnmatch.fnmatchcase(name, p)), None),
    )
