"""The HTTP server, in a thread beside the host's loop."""

import asyncio
import socket
import threading
import time

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgewise.errors import InputError

START_SECONDS, STOP_SECONDS = 10.0, 5.0
HEADER_SECONDS = 10.0  # for the head of a request to arrive
MOST_HEADER_BYTES = 2**16
MOST_CONNECTIONS = 512


class Impatient(H11Protocol):
    """Hangs up on whoever connects and does not say within `HEADER_SECONDS` what they want."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _wait(self) -> None:
        """Time runs from the first byte of a head to its end, whatever comes meanwhile."""
        if self.cycle is None or self.cycle.response_complete:
            if self._patience is None:
                self._patience = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif self._patience is not None:
            self._patience.cancel()
            self._patience = None


class HttpServer:
    """Serves an application from when it is made until it is closed."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Raises InputError where nobody can listen there."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise InputError(f"nothing can listen at {host}:{port}: {error.strerror}") from None
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            http=Impatient,
            ws="none",
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=int(STOP_SECONDS),
            limit_concurrency=MOST_CONNECTIONS,
            access_log=False,
            server_header=False,
        )
        config.get_loop_factory()  # imports; in a thread, beside others, that can fail
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="edgewise http", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started and self._thread.is_alive():
            if time.monotonic() > deadline:
                raise InputError(f"the HTTP server did not start within {START_SECONDS:g} s")
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(2 * STOP_SECONDS)
