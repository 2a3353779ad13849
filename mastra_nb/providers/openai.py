"""OpenAI and everyone who speaks its APIs: chat completions, or Responses."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import urlsplit

from mastra_nb.config import Secret, variable
from mastra_nb.errors import NotFound, close_matches
from mastra_nb.http.client import Retry, Timeouts
from mastra_nb.models import Profile
from mastra_nb.providers._base import Codec, HTTPModel
from mastra_nb.providers._chat import ChatCodec
from mastra_nb.providers._embeddings import OpenAIEmbedder
from mastra_nb.providers._responses import ResponsesCodec
from mastra_nb.providers._vendors import VENDORS, Vendor, address
from mastra_nb.providers._vendors import profile as known_profile

API = Literal["", "chat", "responses"]
_APIS: dict[str, API] = {"chat": "chat", "responses": "responses"}


class OpenAIModel(HTTPModel):
    """A model behind any address that speaks chat completions or Responses.

    `OpenAIModel("name", base_url="http://host/v1")` needs no more, and is sent no key of the
    environment; without `base_url` the vendor's own address and variables count. `api` says
    which of the two it is asked through; "" takes Responses for OpenAI's models that want it, at
    OpenAI's own address.
    """

    def __init__(
        self,
        model_id: str,
        *,
        api: API = "",
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        vendor: str = "",
        profile: Profile | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
    ) -> None:
        row = _vendor(vendor or ("openai-compatible" if base_url else "openai"))
        profile = profile or known_profile(row, model_id)
        super().__init__(
            model_id,
            vendor=row,
            codec=ChatCodec(row, model_id),
            profile=profile,
            base_url=base_url,
            api_key=api_key,
            timeouts=timeouts,
            retry=retry,
        )
        self._api = api
        self._responses = ResponsesCodec(row, model_id, thinks=profile.reasoning)

    def _codec_at(self, base_url: str) -> Codec:
        name = self.model_id.lower()
        wanted = self._api or (
            "responses"
            if any(fnmatchcase(name, pattern) for pattern in self._vendor.responses)
            and (urlsplit(base_url).hostname or "").endswith("api.openai.com")
            else "chat"
        )
        return self._responses if wanted == "responses" else self._codec

    def _address(self, base_url: str, path: str) -> str:
        version = variable(*self._vendor.version_env) if self._vendor.version_env else None
        return address(base_url, path, self.model_id, version or "")


def provider(provider_name: str, model_id: str) -> OpenAIModel:
    """The model `model_id` of a vendor in the table; NotFound names the close ones.

    "openai-chat", "azure-responses": the vendor, and which of its APIs.
    """
    vendor, _, api = provider_name.rpartition("-")
    if vendor and api in _APIS:
        return OpenAIModel(model_id, vendor=vendor, api=_APIS[api])
    return OpenAIModel(model_id, vendor=provider_name)


def embedder(provider_name: str, model_id: str, *, dimensions: int | None = None) -> OpenAIEmbedder:
    """A model for embeddings of a vendor in the table, at "/embeddings"."""
    return OpenAIEmbedder(OpenAIModel(model_id, vendor=provider_name), dimensions=dimensions)


def _vendor(name: str) -> Vendor:
    row = VENDORS.get(name)
    if row is None:
        raise NotFound(f'no vendor "{name}"', hint=close_matches(name, VENDORS))
    return row
