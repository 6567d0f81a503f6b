"""The HTTP server, in a thread beside the host's loop."""

import socket
import threading
import time

import uvicorn
from fastapi import FastAPI

from edgewise.errors import InputError

START_SECONDS, STOP_SECONDS = 10.0, 5.0


class HttpServer:
    """Serves an application from when it is made until it is closed."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Raises InputError where nobody can listen there."""
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise InputError(f"nothing can listen at {host}:{port}: {error.strerror}") from None
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            timeout_graceful_shutdown=int(STOP_SECONDS),
            limit_concurrency=1000,
            access_log=False,
        )
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
