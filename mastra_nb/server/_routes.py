"""Routes as data: what is asked, what is answered, and how both are read from and put on the wire.

A handler is `async (call) -> answer`; an answer is a JSON value or a Starlette Response. Body and
query are msgspec types, which is where their checks and their OpenAPI schemas come from.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mastra_nb.config import get_logger
from mastra_nb.errors import (
    ConfigError,
    Conflict,
    LeaseHeld,
    LimitExceeded,
    MastraError,
    MissingExtra,
    ModelError,
    NotFound,
    NotResumable,
    RunError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from mastra_nb.app import Mastra
    from mastra_nb.server._live import LiveRuns
    from mastra_nb.server.options import Identity, ServerOptions

Json = dict[str, Any]
Handler = Callable[["Call"], Awaitable[Any]]
Produces = Literal["json", "sse", "records", "html"]

# The first that fits. Failed runs are no 5xx: clients of Mastra send those again, and what a run
# has done is done.
_STATUS: tuple[tuple[type[MastraError], int], ...] = (
    (NotFound, 404),
    (MissingExtra, 501),
    (ConfigError, 422),
    (UsageError, 400),
    (Conflict, 409),
    (LeaseHeld, 409),
    (NotResumable, 409),
    (LimitExceeded, 429),
    (StorageError, 500),
    (ModelError, 424),
    (RunError, 409),
)


class Empty(msgspec.Struct):
    """Nothing that counts."""


class BadRequest(MastraError):
    """`issues` are [{"field", "message"}]."""

    def __init__(self, what: str, issues: Iterable[Json] = (), *, status: int = 400) -> None:
        super().__init__(what, code="http.bad_request")
        self.status = status
        self.issues = [*issues]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`response` is the type of a JSON answer; `public` needs no token."""

    method: str
    path: str
    handler: Any
    body: Any = None
    query: Any = Empty
    response: Any = None
    produces: Produces = "json"
    tag: str = ""
    public: bool = False
    prefixed: bool = True
    optional: bool = False
    openai: bool = False

    @property
    def summary(self) -> str:
        return str(self.handler.__doc__ or "").strip().split("\n")[0].rstrip(".")


class Routes(list[Route]):
    """The routes of one part of the server, under a name in its documentation."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag

    def _add(self, method: str, path: str, **options: Any) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            route = Route(method=method, path=path, handler=handler, tag=self.tag, **options)
            self.append(route)
            return handler

        return add

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("DELETE", path, **options)


class Call(msgspec.Struct, kw_only=True):
    """One request; `body` and `query` are of the types of its route."""

    app: Mastra
    live: LiveRuns
    options: ServerOptions
    identity: Identity
    request: Request
    path: dict[str, str]
    body: Any = None
    query: Any = None

    @property
    def resource(self) -> str | None:
        """Whom everything that is asked for must belong to; None: to anybody."""
        return self.identity.resource

    def owner(self, asked: str | None) -> str:
        """Whom what is made belongs to: who asks, whatever they say."""
        return self.resource if self.resource is not None else asked or ""

    def check_owner(self, resource: str, what: str) -> None:
        """Raises NotFound, as if it were not there, for what belongs to another."""
        if self.resource is not None and resource != self.resource:
            raise NotFound(what)


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def dumps(value: Any) -> bytes:
    """JSON on one line. Halves of surrogate pairs, which UTF-8 has no bytes for, are escaped."""
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value, enc_hook=str)).encode()


def openai_error(answer: Response, body: Json) -> Response:
    """The same in OpenAI's form."""
    kind = "invalid_request_error" if answer.status_code < 500 else "server_error"
    issues = body.get("issues") or [{}]
    about = {"message": body["error"], "type": kind, "param": issues[0].get("field") or None}
    about["code"] = body.get("code")
    return JsonResponse({"error": about}, status_code=answer.status_code)


def error_response(error: BaseException) -> Response:
    """What happened, as the client may know it."""
    if isinstance(error, BadRequest):
        body: Json = {"error": error.message}
        if error.issues:
            body["issues"] = error.issues
        return JsonResponse(body, status_code=error.status)
    if isinstance(error, MastraError):
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), 424)
        body = {"error": error.message, "code": error.code}
        if error.hint and status != 404:
            body["hint"] = error.hint
        return JsonResponse(body, status_code=status)
    get_logger("mastra_nb.server").error("a request failed", exc_info=error)
    return JsonResponse({"error": "Internal server error"}, status_code=500)


# Reading


async def read_body(request: Request, kind: Any, most: int, *, optional: bool) -> Any:
    """Raises BadRequest: too large, no JSON, or not of that type."""
    size, chunks = 0, []
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise BadRequest("Request body too large", status=413)
            chunks.append(chunk)
    except ClientDisconnect:
        raise BadRequest("the client went away") from None
    raw = b"".join(chunks)
    if kind is None:
        return None
    if not raw.strip():
        if not optional:
            raise BadRequest("Invalid request body", [{"field": "", "message": "Required"}])
        raw = b"{}"
    try:
        value = msgspec.json.decode(raw)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadRequest("Invalid request body", [_issue(error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = str(error) or "it is nested too deep"
        raise BadRequest("Invalid JSON in request body", [{"field": "", "message": message}]) from (
            None
        )


_NESTED = re.compile(r"^(\w+)\[(\w+)\]$")


def read_query(request: Request, kind: Any) -> Any:
    """Numbers, booleans and JSON are texts in a query; `a[b]=c` is a field of an object."""
    raw: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        if found := _NESTED.match(key):
            within = raw.setdefault(found.group(1), {})
            if isinstance(within, dict):
                within[found.group(2)] = value
        else:
            raw[key] = value
    for field in msgspec.structs.fields(kind):
        given = raw.get(field.encode_name)
        if isinstance(given, str) and not _is_text(field.type):
            raw[field.encode_name] = _from_text(given)
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest("Invalid query parameters", [_issue(error)]) from None


def _is_text(type_: Any) -> bool:
    if get_origin(type_) in (Union, types.UnionType):
        return all(_is_text(each) for each in get_args(type_))
    return type_ in (str, type(None)) or get_origin(type_) is Literal


def _from_text(text: str) -> Any:
    if text[:1] in "{[" and text:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return {"true": True, "false": False}.get(text, text)


def request_context(given: Any) -> Json:
    """What a client says of its request, without what only a server may say."""
    if isinstance(given, str):
        text = given
        if not text.startswith("{"):
            try:
                text = base64.b64decode(given, validate=True).decode()
            except (binascii.Error, ValueError):
                raise BadRequest("Invalid query parameters", [_CONTEXT]) from None
        try:
            given = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            raise BadRequest("Invalid query parameters", [_CONTEXT]) from None
    if not isinstance(given, Mapping):
        return {}
    return {str(k): v for k, v in given.items() if not _is_reserved(str(k))}


_CONTEXT = {"field": "requestContext", "message": "neither base64 of JSON nor JSON"}


def _is_reserved(key: str) -> bool:
    return key.startswith("mastra__") or key == "organizationId"


def _issue(error: msgspec.ValidationError) -> Json:
    message, _, place = str(error).partition(" - at `")
    return {"field": place.rstrip("`").removeprefix("$").lstrip("."), "message": message}
