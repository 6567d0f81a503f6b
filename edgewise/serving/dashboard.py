"""The page at `/`: files that ask the public endpoints, like any client."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import FileResponse, Response
from starlette.types import Scope

FILES = Path(__file__).parent / "page"
# What a model writes is shown as Markdown: nothing in it may run, load or send anything.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(HEADERS)
        return answer


def add_dashboard(app: FastAPI) -> None:
    app.mount("/page", _Files(directory=FILES))

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return FileResponse(FILES / "index.html", headers=HEADERS)


def is_dashboard(path: str) -> bool:
    """Files that say nothing of this cluster: a browser asks for them without a key."""
    return path == "/" or path.startswith("/page/")
