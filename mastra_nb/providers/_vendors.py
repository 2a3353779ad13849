"""Services that speak chat completions, as data: where they are and where they differ.

Sources: each vendor's API reference for chat completions, and their answers as recorded by
public test suites.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from mastra_nb.models import Profile


class Vendor(msgspec.Struct, frozen=True, kw_only=True):
    """A service. The names of variables are tried in order.

    `url_path` completes an address from `url_env` that has no path. `echo` says under which key
    the reasoning of the current turn goes back to it ("thinking": as content parts).
    `fetch` is the command that gets a model, `port` what plain HTTP means without one.
    `limit_key` is the field of the token limit, "" to choose by model.
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
    json_schema: bool = True
    echo: Literal["", "reasoning", "reasoning_content", "reasoning_details", "thinking"] = ""
    short_ids: bool = False
    reports_cost: bool = False


def _local(name: str, base_url: str, url_env: tuple[str, ...], start: str) -> Vendor:
    return Vendor(
        name=name,
        base_url=base_url,
        url_env=url_env,
        key_env=(f"{name.upper()}_API_KEY",),
        needs_key=False,
        start=start,
        slow_start=True,
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
)

_ROWS = (
    Vendor(
        name="openai",
        base_url="https://api.openai.com/v1",
        key_env=("OPENAI_API_KEY",),
        url_env=("OPENAI_BASE_URL",),
        limit_key="",
    ),
    Vendor(
        name="openai-compatible",
        key_env=("OPENAI_API_KEY",),
        url_env=("OPENAI_BASE_URL",),
        limit_key="",
        needs_key=False,
        slow_start=True,
    ),
    Vendor(
        name="azure",
        key_env=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        url_env=("AZURE_OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT"),
        url_path="/openai/v1",
        auth_header="api-key",
        limit_key="",
    ),
    Vendor(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        key_env=("GROQ_API_KEY",),
        url_env=("GROQ_BASE_URL",),
        url_path="/openai/v1",
    ),
    Vendor(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        key_env=("MISTRAL_API_KEY",),
        url_env=("MISTRAL_BASE_URL",),
        seed_key="random_seed",
        stream_usage=False,
        echo="thinking",
        short_ids=True,
    ),
    Vendor(
        name="deepseek",
        base_url="https://api.deepseek.com/v1",
        key_env=("DEEPSEEK_API_KEY",),
        url_env=("DEEPSEEK_BASE_URL",),
        json_schema=False,
        echo="reasoning_content",
    ),
    Vendor(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        key_env=("OPENROUTER_API_KEY",),
        url_env=("OPENROUTER_BASE_URL",),
        url_path="/api/v1",
        echo="reasoning_details",
        reports_cost=True,
    ),
    Vendor(
        name="together",
        base_url="https://api.together.xyz/v1",
        key_env=("TOGETHER_API_KEY",),
        url_env=("TOGETHER_BASE_URL",),
    ),
    Vendor(
        name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        key_env=("FIREWORKS_API_KEY",),
    ),
    Vendor(name="xai", base_url="https://api.x.ai/v1", key_env=("XAI_API_KEY",)),
    Vendor(
        name="cerebras",
        base_url="https://api.cerebras.ai/v1",
        key_env=("CEREBRAS_API_KEY",),
        limit_key="max_completion_tokens",
    ),
    Vendor(
        name="moonshot",
        base_url="https://api.moonshot.ai/v1",
        key_env=("MOONSHOT_API_KEY",),
        url_env=("MOONSHOT_BASE_URL",),
        echo="reasoning_content",
    ),
    Vendor(
        name="zai",
        base_url="https://api.z.ai/api/paas/v4",
        key_env=("ZAI_API_KEY", "ZHIPU_API_KEY"),
        url_env=("ZAI_BASE_URL",),
        url_path="/api/paas/v4",
        json_schema=False,
        echo="reasoning_content",
    ),
    Vendor(
        name="huggingface",
        base_url="https://router.huggingface.co/v1",
        key_env=("HF_TOKEN", "HUGGINGFACE_API_KEY"),
    ),
    Vendor(
        name="nvidia", base_url="https://integrate.api.nvidia.com/v1", key_env=("NVIDIA_API_KEY",)
    ),
    Vendor(
        name="perplexity",
        base_url="https://api.perplexity.ai",
        key_env=("PERPLEXITY_API_KEY",),
        url_path="",
    ),
    _OLLAMA,
    msgspec.structs.replace(_OLLAMA, name="ollama-v1"),
    _local(
        "lmstudio",
        "http://127.0.0.1:1234/v1",
        ("LMSTUDIO_BASE_URL",),
        "start its server with `lms server start`",
    ),
    _local(
        "llamacpp",
        "http://127.0.0.1:8080/v1",
        ("LLAMACPP_BASE_URL",),
        "start it with `llama-server -m model.gguf`",
    ),
    _local(
        "vllm", "http://127.0.0.1:8000/v1", ("VLLM_BASE_URL",), "start it with `vllm serve <model>`"
    ),
)

VENDORS = {row.name: row for row in _ROWS}


@functools.lru_cache
def full_url(value: str, vendor: Vendor) -> str:
    """A base URL from what a variable holds: a URL, "host:port" or, for Ollama, "0.0.0.0"."""
    value = value.strip().rstrip("/")
    if "://" not in value:
        value = f"http://{value}"
    parts = urlsplit(value)
    host, port = parts.hostname or "", parts.port
    if host in ("0.0.0.0", "::"):  # noqa: S104 (where a server listens; a client needs a host)
        host = "127.0.0.1"
    if port is None and parts.scheme == "http":
        port = vendor.port
    shown = f"[{host}]" if ":" in host else host
    netloc = f"{shown}:{port}" if port is not None else shown
    return f"{parts.scheme}://{netloc}{parts.path or vendor.url_path}"


_COMPLETION_TOKENS = re.compile(r"(?:.*/)?(?:o[1-9]|gpt-[5-9])")


def limit_key(vendor: Vendor, model_id: str) -> str:
    if vendor.limit_key:
        return vendor.limit_key
    return "max_completion_tokens" if _COMPLETION_TOKENS.match(model_id) else "max_tokens"


_SEES = (
    "gpt-4o*", "gpt-4.*", "gpt-4-turbo*", "gpt-[5-9]*", "chatgpt-*", "o1", "o1-20*", "o3*", "o4*",
    "claude-*", "gemini-*", "gemma-3*", "gemma3*", "llava*", "pixtral*", "mistral-medium*",
    "mistral-small*", "llama-4*", "llama4*", "*vision*", "*-vl*", "*vl:*", "grok-4*", "kimi-k2.5*",
)  # fmt: skip
_THINKS = (
    "o1*", "o3*", "o4*", "gpt-[5-9]*", "gpt-oss*", "deepseek-r*", "deepseek-v4*", "qwq*", "qwen3*",
    "magistral*", "*thinking*", "glm-4.[5-9]*", "glm-[5-9]*", "grok-[34]*", "*reason*", "minimax*",
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


def profile(vendor: Vendor, model_id: str) -> Profile:
    """What is known of a model from its name, and nothing that is not."""
    name = model_id.rpartition("/")[2].lower()
    return Profile(
        json_schema=vendor.json_schema,
        reasoning=any(fnmatch.fnmatchcase(name, pattern) for pattern in _THINKS),
        media=("image/*",) if any(fnmatch.fnmatchcase(name, p) for p in _SEES) else (),
        context=next((n for p, n in _CONTEXT if fnmatch.fnmatchcase(name, p)), None),
    )
