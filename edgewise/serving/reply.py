"""A reply on its way: chunks as they come, or all of them put together at the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edgewise.serving.answers import Answers
from edgewise.serving.chunks import Chunk, events, folded
from edgewise.serving.gate import Gate
from edgewise.serving.schema import Generation

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Reply(Response):
    """Asks for the answers when it is sent, and cancels what is left of them when it was, or when
    the client hung up."""

    def __init__(
        self,
        gate: Gate,
        answers: Answers,
        chunks: AsyncIterator[Chunk],
        body: Generation,
    ) -> None:
        super().__init__()
        self._gate, self._answers, self._chunks, self._body = gate, answers, chunks, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refusal, before anything is sent."""
        with self._gate.of(len(self._answers)), self._answers:
            work = asyncio.create_task(self._send(scope, receive, send))
            gone = asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                for task in (work, gone):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._body.stream:
            await JSONResponse(await folded(self._chunks))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        async for event in events(self._chunks, self._body.stream_options.include_usage):
            part = {"type": "http.response.body", "body": event.encode(), "more_body": True}
            await send(part)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
