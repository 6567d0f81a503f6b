"""A prompt as a request to an engine."""

from edgewise.errors import PromptError
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.coordinator.checks import check_request
from edgewise.runtime.engine import Request
from edgewise.runtime.sampling import Sampling
from edgewise.specs import ModelSpec

DEFAULT_MAX_TOKENS = 128


def request_of(
    prompt: str,
    tokenizer: Tokenizer,
    spec: ModelSpec,
    context: int,
    *,
    raw: bool = False,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    adapter: str = "",
) -> Request:
    """In the model's chat template, where it has one, unless `raw`. Prompt and answer have
    `context` tokens together; `max_tokens` is 128 where these suffice. `adapter` is the name of
    one. Raises PromptError."""
    if not prompt.strip():
        raise PromptError("the prompt is empty")
    if raw:
        ids = tokenizer.encode(prompt)
    else:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, max(context - len(ids), 1))
    sampling = Sampling(temperature, top_k, top_p, seed)
    request = Request(tuple(ids), max_tokens, sampling, tokenizer.stop_ids, adapter=adapter)
    check_request(request, context, spec.vocab_size, spec.name)
    return request
