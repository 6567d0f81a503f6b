"""The HTTP application: routes, and how errors look."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from edgewise.errors import PromptError
from edgewise.hosting import Host
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.metrics import metrics_text
from edgewise.serving.answers import ChatAnswer, NoAnswer, chat_request
from edgewise.serving.dashboard import add_dashboard, is_dashboard
from edgewise.serving.schema import ChatRequest

MOST_BODY_BYTES = 2**22
OPEN = ("/health",)  # answered without a key


def create_app(host: Host, tokenizer: Tokenizer, context: int, key: str = "") -> FastAPI:
    """`context`: tokens that a prompt and its answer may have. `key`: what clients show, "" for
    none."""
    app = FastAPI(title="Edgewise", docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def check(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if key and not _is_open(request.url.path) and not _shows(request, key):
            return _error(401, "give the API key as 'Authorization: Bearer KEY'", "invalid_api_key")
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and not (
            length.isdigit() and 0 < int(length) < MOST_BODY_BYTES
        ):
            return _error(413, f"the body must have a length below {MOST_BODY_BYTES} bytes")
        return await go_on(request)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _error(400, f"{where}: {first['msg']}" if where else first["msg"])

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok" if host.state.ready else host.state.status}

    @app.get("/api/state")
    def state() -> dict[str, object]:
        return asdict(host.state)

    @app.get("/metrics")
    def metrics() -> Response:
        text = metrics_text(host.stats) if host.stats is not None else ""
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        one = {"id": host.state.model, "object": "model", "created": 0, "owned_by": "edgewise"}
        return {"object": "list", "data": [one]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response | dict[str, object]:
        try:
            request = chat_request(tokenizer, body, context)
        except PromptError as error:
            return _error(400, str(error))
        answer = ChatAnswer(host, tokenizer, request, body.stops)
        if body.stream:
            events = _events(answer, host.state.model, body.stream_options.include_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        return await _whole(answer, host.state.model)

    add_dashboard(app)
    return app


async def _whole(answer: ChatAnswer, model: str) -> Response | dict[str, object]:
    try:
        text = "".join([piece async for piece in answer.pieces()])
    except NoAnswer as error:
        return _error(503, str(error), "server_error")
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    return {**_head("chat.completion", model), "choices": [choice], "usage": _usage(answer)}


def _is_open(path: str) -> bool:
    return path in OPEN or is_dashboard(path)


def _shows(request: Request, key: str) -> bool:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(shown.encode(), key.encode())


def _error(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status)


def _head(kind: str, model: str) -> dict[str, object]:
    name = f"chatcmpl-{secrets.token_hex(12)}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def _usage(answer: ChatAnswer) -> dict[str, int]:
    prompt, new = len(answer.request.prompt), answer.tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def _events(answer: ChatAnswer, model: str, usage: bool) -> AsyncIterator[str]:
    """Server-sent events, the last of which is [DONE]."""
    head = _head("chat.completion.chunk", model)

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    try:
        async for piece in answer.pieces():
            yield event({"content": piece})
    except NoAnswer as error:
        yield f"data: {json.dumps({'error': {'message': str(error), 'type': 'server_error'}})}\n\n"
        return
    yield event({}, answer.finish)
    if usage:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(answer)})}\n\n"
    yield "data: [DONE]\n\n"
