"""/v1/completions: prompts in, chunks out."""

from collections.abc import AsyncIterator, Sequence

from edgewise.runtime.engine import Request
from edgewise.serving.answers import Answers
from edgewise.serving.chunks import Chunk, head, usage
from edgewise.serving.logprobs import completion_logprobs
from edgewise.serving.requests import Model, answer_grammar, requests_of
from edgewise.serving.schema import CompletionRequest


def completions_of(model: Model, body: CompletionRequest, adapter: str = "") -> list[Request]:
    """`n` for each prompt, one prompt after the other. Raises PromptError."""
    grammar = answer_grammar(model.tokenizer, body.response_format)
    requests = list[Request]()
    for prompt in body.prompts:
        ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        scored = body.echo and body.logprobs is not None
        # Without an answer, its first token is not told: prompts are scored on the way to it.
        requests += requests_of(
            model,
            body,
            ids,
            max(body.max_tokens, 1),
            top=body.logprobs,
            grammar=grammar,
            score_prompt=scored,
            adapter=adapter,
        )
    return requests


async def completion_chunks(
    model: Model, body: CompletionRequest, requests: Sequence[Request], answers: Answers
) -> AsyncIterator[Chunk]:
    """With the usage at their end, in a chunk without choices. Raises Refusal."""
    about = head("text_completion", "cmpl", body.model or model.name)
    tokenizer, offsets = model.tokenizer, [0] * len(requests)
    echoed = set[int]() if body.echo else set(range(len(requests)))
    async for piece in answers.pieces():
        index, text, scores = piece.index, piece.text, piece.scores
        told: list[dict[str, object]] = []
        if index not in echoed:
            echoed.add(index)
            prompt = requests[index].prompt
            before = tokenizer.decode(prompt)
            told.append(_choice(index, before))
            if body.logprobs is not None:
                told[0]["logprobs"] = completion_logprobs(
                    piece.prompt, tokenizer.text, 0, prompt[0]
                )
            offsets[index] = len(before)
        if not body.max_tokens:
            text, scores = "", ()
        if text or scores or piece.finish:
            told.append(_choice(index, text, piece.finish))
            if scores:
                told[-1]["logprobs"] = completion_logprobs(scores, tokenizer.text, offsets[index])
            offsets[index] += len(text)
        for choice in told:
            yield about | {"choices": [choice]}
    first = requests[:: body.n]
    new = answers.tokens if body.max_tokens else 0
    yield about | {"choices": [], "usage": usage(sum(len(x.prompt) for x in first), new)}


def _choice(index: int, text: str, finish: str = "") -> dict[str, object]:
    return {"index": index, "text": text, "finish_reason": finish or None, "logprobs": None}
