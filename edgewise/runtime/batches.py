"""What enters the pipeline together: rows of tokens, each of one request."""

from dataclasses import dataclass

from edgewise.runtime.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Wish:
    """What the last stage is to know or to tell of a row, beyond a plain token.

    `past`: under a penalty, the request's tokens from where earlier rows ended, all of them in its
    first row; `prompt` of all are its prompt. `allowed`: which tokens may follow, a bit for each,
    compressed; b"" for all. `top`: log-probabilities are told, beside each token's own those of so
    many likeliest ones. `targets`: what follows each of the row's tokens in the prompt, to be
    scored.
    """

    past: tuple[int, ...] = ()
    prompt: int = 0
    allowed: bytes = b""
    top: int | None = None
    targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of a request at positions [start, start + len(tokens)). Behind the last one a token is
    sampled, unless `sampling` is None. `prefix` = (other request, tokens) says whose cached tokens
    are this request's first ones as well, to be copied before it computes: only on its first row,
    whose `start` they are. Its tokens are computed with `adapter`, 0 for none."""

    request: int
    start: int
    tokens: tuple[int, ...]
    sampling: Sampling | None = None
    prefix: tuple[int, int] | None = None
    wish: Wish | None = None
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of the pipeline: `rows` of different requests. Before they compute, every stage
    gives back the cache of the requests `dropped`."""

    rows: tuple[Row, ...]
    dropped: tuple[int, ...] = ()
