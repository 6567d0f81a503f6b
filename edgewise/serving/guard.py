"""What stands before the application: the key, and bounds on what clients send, and how slowly."""

import asyncio
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgewise.serving.dashboard import is_dashboard
from edgewise.serving.errors import Refusal, error_response

MOST_BODY_BYTES = 2**22
BODY_SECONDS = 20.0  # for a body to arrive
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/health",)  # answered without a key


class Guard:
    """ASGI middleware. `key`: what clients show; "" for none, which is for this machine only."""

    def __init__(self, app: ASGIApp, key: str = "") -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_key(scope)
            self._check_name(scope)
            body = await self._body(scope, receive)
        except Refusal as refusal:
            response = error_response(refusal.status, refusal.message, refusal.code)
            response.headers["Connection"] = "close"  # there may be more of its body
            await response(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _check_key(self, scope: MutableMapping[str, Any]) -> None:
        if not self._key or scope["path"] in OPEN or is_dashboard(scope["path"]):
            return
        scheme, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
        right = secrets.compare_digest(shown.strip().encode(), self._key.encode())
        if scheme.lower() != "bearer" or not right:
            raise Refusal(401, "give the API key as 'Authorization: Bearer KEY'", "invalid_api_key")

    def _check_name(self, scope: MutableMapping[str, Any]) -> None:
        """A page on the internet may give its own name this machine's address, and would then be
        let in by a browser (DNS rebinding): without a key, only this machine's names are."""
        host = Headers(scope=scope).get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if not self._key and name not in LOOPBACK:
            raise Refusal(403, f"without a key nobody is answered at '{name}', but at localhost")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it, so that nothing of a request computes before it is there."""
        most = f"a body may have {MOST_BODY_BYTES} bytes"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES:
            raise Refusal(413, most)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > MOST_BODY_BYTES:
                        raise Refusal(413, most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one message, and then what else comes: that the client is gone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
