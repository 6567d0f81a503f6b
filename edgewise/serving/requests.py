"""What clients wish, as requests of the engine."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.errors import PromptError
from edgewise.models.grammar import CompiledGrammar
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.coordinator.checks import check_request
from edgewise.runtime.engine import Request, samples
from edgewise.runtime.sampling import Sampling
from edgewise.serving.schema import Generation, ResponseFormat

MOST_SEED = 2**63


@dataclass(frozen=True, slots=True)
class Model:
    """What is served. `context`: tokens that a prompt and its answer may have; `share`, where
    nobody sets a limit: as many requests as there are places for are then answered together."""

    name: str
    tokenizer: Tokenizer
    context: int
    vocab_size: int
    share: int


def requests_of(
    model: Model,
    body: Generation,
    ids: Sequence[int],
    wanted: int | None,
    *,
    top: int | None,
    grammar: CompiledGrammar | None,
    score_prompt: bool = False,
    adapter: str = "",
) -> list[Request]:
    """The `n` requests of a prompt, for `wanted` tokens or its share, or as many as there is room
    for. Raises PromptError."""
    room = model.context - len(ids)
    if room < 1:
        raise PromptError(
            f"the prompt has {len(ids)} tokens, but there is room for {model.context}, answer "
            "included"
        )
    request = Request(
        tuple(ids),
        min(wanted or max(model.share - len(ids), model.share // 4), room),
        _sampling(body),
        model.tokenizer.stop_ids,
        top,
        score_prompt,
        grammar,
        body.deadline_ms and body.deadline_ms / 1000,
        body.min_quality,
        adapter,
    )
    check_request(request, model.context, model.vocab_size, model.name)
    return samples(request, body.n)


def answer_grammar(tokenizer: Tokenizer, wanted: ResponseFormat) -> CompiledGrammar | None:
    """Raises PromptError."""
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return tokenizer.grammars.json()
    return tokenizer.grammars.json(wanted.json_schema.schema_)


def _sampling(body: Generation) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_k=max(body.top_k, 0),
        top_p=body.top_p,
        seed=random.randrange(MOST_SEED) if body.seed is None else body.seed % MOST_SEED,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=tuple(body.logit_bias.items()),
    )
