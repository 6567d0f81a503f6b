"""The HTTP application: its routes."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from edgewise.hosting import Host
from edgewise.runtime.coordinator.metrics import metrics_text
from edgewise.serving.adapters import AdapterShelf, adapter_of, add_adapters
from edgewise.serving.answers import Answers
from edgewise.serving.chats import chat_chunks, chat_of
from edgewise.serving.completions import completion_chunks, completions_of
from edgewise.serving.dashboard import add_dashboard
from edgewise.serving.errors import Refusal, add_error_handlers
from edgewise.serving.gate import Gate
from edgewise.serving.guard import Guard
from edgewise.serving.mailbox import Mailbox
from edgewise.serving.reply import Reply
from edgewise.serving.requests import Model
from edgewise.serving.schema import ChatRequest, CompletionRequest


def create_app(
    host: Host,
    model: Model,
    key: str = "",
    origins: Sequence[str] = (),
    gate: Gate | None = None,
    shelf: AdapterShelf | None = None,
) -> FastAPI:
    """`key`: what clients show, "" for none. `origins`: of pages that browsers let ask. Adapters
    come from `shelf` while the server runs."""
    app = FastAPI(title="Edgewise", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, key=key)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
        )
    add_error_handlers(app)
    _add_answers(app, host, model, gate or Gate())
    _add_views(app, host, model)
    if shelf is not None:
        add_adapters(app, host, shelf)
    add_dashboard(app)
    return app


def _add_answers(app: FastAPI, host: Host, model: Model, gate: Gate) -> None:
    preparing = asyncio.Lock()  # tokenizers are not for several threads at a time
    mailbox = Mailbox()

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response:
        gate.check(body.n)
        adapter = adapter_of(body.model, model.name, host.swaps.names)
        _check_plan(host)
        async with preparing:
            asked = await asyncio.to_thread(chat_of, model, body, adapter)
        answers = Answers(host, mailbox, asked.decode(model.tokenizer), asked.requests, body.stops)
        return Reply(gate, answers, chat_chunks(model, asked, answers), body)

    @app.post("/v1/completions", response_model=None)
    async def completion(body: CompletionRequest) -> Response:
        gate.check(len(body.prompts) * body.n)
        adapter = adapter_of(body.model, model.name, host.swaps.names)
        _check_plan(host)
        async with preparing:
            requests = await asyncio.to_thread(completions_of, model, body, adapter)
        answers = Answers(host, mailbox, model.tokenizer.decode, requests, body.stops)
        return Reply(gate, answers, completion_chunks(model, body, requests, answers), body)


def _add_views(app: FastAPI, host: Host, model: Model) -> None:
    card = {"object": "model", "created": int(time.time()), "owned_by": "edgewise"}

    def card_of(adapter: str) -> dict[str, object]:
        if not adapter:
            return {"id": model.name, **card}
        return {"id": f"{model.name}:{adapter}", **card, "parent": model.name}

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        names = ("", *sorted(host.swaps.names))
        return {"object": "list", "data": [card_of(name) for name in names]}

    @app.get("/v1/models/{name:path}")
    def one(name: str) -> dict[str, object]:
        return card_of(adapter_of(name, model.name, host.swaps.names))

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether this process answers at all."""
        return {"status": "ok" if host.state.ready else host.state.status}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """Whether requests are answered now."""
        _check_plan(host)
        if not host.state.ready:
            raise Refusal(503, host.state.status)
        return {"status": "ready"}

    @app.get("/api/state")
    def state() -> dict[str, object]:
        return asdict(host.state)

    @app.get("/metrics")
    def metrics() -> Response:
        text = metrics_text(host.stats) if host.stats is not None else ""
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _check_plan(host: Host) -> None:
    """Whoever comes while no plan is in use is not kept waiting; whoever has come is."""
    if why := host.without_plan:
        raise Refusal(503, why)
