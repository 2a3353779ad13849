"""The client that the conformance suite runs: `python tests/mcp/conformance_client.py URL`.

It uses all that a server offers, through MCPClient, as an application would; the scenario and
what it says of itself come in the environment. OAuth is that of the SDK, as `Http(auth=…)`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from mastra_nb.errors import MastraError, ToolFailed
from mastra_nb.mcp.client import Elicitation, MCPClient
from mastra_nb.mcp.servers import Http

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
TOLD: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
PROTOCOL: Any = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "auto")
CALLBACK = "http://localhost:3000/callback"


class Memory:
    """Tokens for one run. With credentials that were registered by hand, if there are any."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        if "client_id" in TOLD and "client_secret" in TOLD:
            self.client = OAuthClientInformationFull(
                client_id=TOLD["client_id"],
                client_secret=TOLD["client_secret"],
                redirect_uris=[AnyUrl(CALLBACK)],
                token_endpoint_auth_method="client_secret_basic",
            )

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def oauth(url: str) -> httpx2.Auth:
    if SCENARIO == "auth/client-credentials-basic":
        return ClientCredentialsOAuthProvider(
            url, Memory(), TOLD["client_id"], TOLD["client_secret"]
        )
    if SCENARIO == "auth/client-credentials-jwt":
        signed = SignedJWTParameters(
            issuer=TOLD["client_id"],
            subject=TOLD["client_id"],
            signing_algorithm=TOLD.get("signing_algorithm", "ES256"),
            signing_key=TOLD["private_key_pem"],
        )
        return PrivateKeyJWTOAuthProvider(
            url, Memory(), TOLD["client_id"], signed.create_assertion_provider()
        )
    went: list[httpx2.URL] = []

    async def go(to: str) -> None:
        """A browser whose user says yes: the answer is where it is sent back to."""
        async with httpx2.AsyncClient(follow_redirects=False) as browser:
            answer = await browser.get(to)
            went.append(httpx2.URL(answer.headers["location"]))

    async def came_back() -> AuthorizationCodeResult:
        found = went.pop().params
        return AuthorizationCodeResult(
            code=found["code"], state=found.get("state"), iss=found.get("iss")
        )

    return OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata(
            client_name="mastra_nb",
            redirect_uris=[AnyUrl(CALLBACK)],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        ),
        storage=Memory(),
        redirect_handler=go,
        callback_handler=came_back,
        client_metadata_url="https://conformance-test.local/client-metadata.json",
    )


def example(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        wanted = schema.get("required") or []
        return {k: example(v) for k, v in schema.get("properties", {}).items() if k in wanted}
    return {"number": 5, "integer": 5, "boolean": True, "array": []}.get(str(kind), "example")


def elicit(asked: Elicitation) -> dict[str, Any]:
    wanted = asked.schema.get("required") or []
    fields = asked.schema.get("properties") or {}
    return {k: example(v) for k, v in fields.items() if k in wanted and "default" not in v}


async def use(client: MCPClient) -> None:
    calls = {c["name"]: c["arguments"] for c in TOLD.get("toolCalls", ())}
    about = await client.info("it")
    tools = await client.tools()
    schemas = {t.remote: t.spec.parameters for t in tools}
    if "json_schema_echo" in schemas:
        calls["json_schema_echo"] = {"schema": schemas["json_schema_2020_12_tool"]}
    wanted = [(name, calls.get(name, example(schema))) for name, schema in schemas.items()]
    for name, args in wanted:
        try:
            await client.call("it", name, args)
        except ToolFailed as error:
            print(error)
            if "no valid answer" in error.message:
                raise
    if wanted and SCENARIO.startswith("sep-2322"):
        # Answers of calls that run at once must not be mixed up.
        await asyncio.gather(*(client.call("it", name, args) for name, args in wanted))
    if "resources" in about["capabilities"]:
        for resource in await client.resources("it"):
            await client.read_resource("it", resource["uri"])
    if "prompts" in about["capabilities"]:
        for prompt in await client.prompts("it"):
            given = {a["name"]: "example" for a in prompt.get("arguments", ())}
            await client.prompt("it", prompt["name"], given)


async def main(url: str) -> None:
    auth = oauth(url) if SCENARIO.startswith("auth/") else None
    server = Http(url, auth=auth, protocol=PROTOCOL, timeout=20, connect_timeout=20)
    async with MCPClient({"it": server}, elicit=elicit) as client:
        await use(client)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[-1]))
    except MastraError as error:
        sys.exit(str(error))
