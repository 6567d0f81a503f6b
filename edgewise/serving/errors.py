"""Errors as OpenAI's API has them."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from edgewise.errors import PromptError

# OpenAI's clients ask again twice: a new plan takes 1 to 3 s where schemes stay.
RETRY_SECONDS = {429: 1, 503: 2}


class Refusal(Exception):
    """A request that is not answered: the status, why, and OpenAI's word for it."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def error_body(status: int, message: str, code: str | None = None) -> dict[str, object]:
    # What clients sent may be in it, and need not be text.
    text = message.encode(errors="replace").decode()
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def error_response(status: int, message: str, code: str | None = None) -> JSONResponse:
    retry = {"Retry-After": str(RETRY_SECONDS[status])} if status in RETRY_SECONDS else {}
    return JSONResponse(error_body(status, message, code), status, headers=retry)


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return error_response(error.status, error.message, error.code)

    @app.exception_handler(PromptError)
    async def wrong(_: Request, error: PromptError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        response = error_response(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return error_response(400, f"{where}: {first['msg']}" if where else first["msg"])

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"something went wrong here: {type(error).__name__}")
