"""The routes as OpenAPI, and as a page to read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

import msgspec
from starlette.responses import Response

from mastra_nb import __version__
from mastra_nb.server._routes import Call, Empty, Json, Route, Routes

_PARAMETER = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{name}"
_ERRORS = {
    "400": "the request cannot be used",
    "401": "a token is needed",
    "404": "it is not there, or belongs to another",
    "409": "it does not fit what was done before",
    "413": "the body is too large",
    "422": "the application is not set up for it",
    "424": "the run failed",
    "429": "the run has used up its budget",
    "500": "an error of the server",
    "501": "this application does not offer it",
}
_TEXTS = {"sse": "text/event-stream", "records": "text/plain", "html": "text/html"}


def document(routes: Iterable[Route], prefix: str) -> Json:
    """An OpenAPI 3.1 document."""
    routes = [*routes]
    kinds = [r.body for r in routes if r.body is not None]
    found, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    bodies = dict(zip(map(id, kinds), found, strict=True))
    components["Error"] = {
        "type": "object",
        "properties": {"error": {"type": ["string", "object"]}},
        "required": ["error"],
    }
    paths: dict[str, Json] = {}
    for route in routes:
        path = f"{prefix if route.prefixed else ''}{route.path}"
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mastra_nb", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def operation_id(route: Route) -> str:
    """Of a route among all."""
    where = route.path if route.prefixed else f"/plain{route.path}"
    return re.sub(r"\W+", "_", f"{route.method.lower()}{where}").strip("_")


def _operation(route: Route, bodies: dict[int, Json]) -> Json:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not Empty:
        parameters += _query(route.query)
    content: Json = {"application/json": {"schema": {}}}
    if route.produces in _TEXTS:
        content = {_TEXTS[route.produces]: {"schema": {"type": "string"}}}
    error = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
    out: Json = {
        "summary": route.summary,
        "operationId": operation_id(route),
        "tags": [route.tag],
        "parameters": parameters,
        "responses": {
            "200": {"description": "as asked", "content": content},
            "204": {"description": "there is none"},
            **{s: {"description": text, "content": error} for s, text in _ERRORS.items()},
        },
    }
    if route.body is not None:
        schema = {"application/json": {"schema": bodies[id(route.body)]}}
        out["requestBody"] = {"content": schema, "required": not route.optional}
    if route.public:
        out["security"] = []
    return out


def _query(kind: Any) -> list[Json]:
    (found,), components = msgspec.json.schema_components([kind], ref_template=_REF)
    schema = components[found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _plain(each)}
        for name, each in schema.get("properties", {}).items()
    ]


def _plain(schema: Json) -> Json:
    """Without null, which a query has no word for."""
    out = {k: v for k, v in schema.items() if k != "default" or v is not None}
    if "anyOf" in out:
        left = [each for each in out["anyOf"] if each.get("type") != "null"]
        rest = {k: v for k, v in out.items() if k != "anyOf"}
        return {**left[0], **rest} if len(left) == 1 else {"anyOf": left, **rest}
    return out


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td { padding: .15rem .5rem; vertical-align: top }
td:first-child { width: 4.5rem; opacity: .7 } code { font-size: .92em }
"""


def page(routes: Iterable[Route], prefix: str) -> str:
    """All routes as HTML, without a script."""
    out = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>mastra_nb</title>",
        f"<style>{_STYLE}</style><h1>mastra_nb {escape(__version__)}</h1>",
        f'<p>As <a href="{escape(prefix)}/openapi.json">OpenAPI</a>.</p>',
    ]
    tags: dict[str, list[Route]] = {}
    for route in routes:
        tags.setdefault(route.tag, []).append(route)
    for tag, found in tags.items():
        out.append(f"<h2>{escape(tag)}</h2><table>")
        for route in found:
            path = f"{prefix if route.prefixed else ''}{route.path}"
            out.append(
                f"<tr><td>{route.method}<td><code>{escape(path)}</code><td>{escape(route.summary)}"
            )
        out.append("</table>")
    return "".join(out)


def described(others: Iterable[Route], prefix: str) -> Routes:
    """The routes that describe the server, themselves too."""
    routes = Routes("About")

    @routes.get("/openapi.json")
    async def openapi(call: Call) -> Json:
        """This server as an OpenAPI document"""
        return document([*others, *routes], prefix)

    @routes.get("/docs", prefixed=False, produces="html")
    async def docs(call: Call) -> Response:
        """This server as a page to read"""
        return Response(page([*others, *routes], prefix), media_type="text/html")

    return routes
