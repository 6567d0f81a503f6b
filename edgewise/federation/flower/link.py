"""Flower's SuperLink, which lets this machine alone register keys and begin runs.

At one address it serves SuperNodes (/v1/fleet/), who show their keys, and what controls it and what
its own processes ask, which need none. So a process of its own, in place of `flower-superlink`,
which takes the same options."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

FOR_NODES = "/v1/fleet/"
FORBIDDEN = 403
LOOPBACK = "127.0.0.1"  # also how this machine asks at its others, such as 127.0.1.1

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class OwnMachine:
    """What is not for SuperNodes is refused unless it comes from the address that it is asked at,
    as it does on one machine and no other: a system drops what comes in from outside under an
    address of its own."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": FORBIDDEN, "headers": []})
            await send({"type": "http.response.body", "body": b"asked from another machine"})
        else:
            await send({"type": "websocket.close"})


def _may(scope: Scope) -> bool:
    client, server = scope.get("client"), scope.get("server")
    here = bool(client and server and client[0] in (server[0], LOOPBACK))
    return here or str(scope["path"]).startswith(FOR_NODES)


def run_link() -> None:
    """A SuperLink by the options that the process was given."""
    from flwr.superlink import main
    from flwr.superlink.cli import flower_superlink

    create_app = main.create_app

    def guarded(*arguments: Any) -> Any:
        app = create_app(*arguments)
        app.add_middleware(OwnMachine)  # outermost: before anything is read
        return app

    main.create_app = guarded
    flower_superlink()


if __name__ == "__main__":
    run_link()
