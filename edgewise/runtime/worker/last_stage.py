"""What the last stage does beyond its shard: tokens from logits, and scores of prompts."""

from torch import Tensor

from edgewise.errors import NonFinite
from edgewise.models.shard import Shard
from edgewise.runtime.batches import Wish
from edgewise.runtime.masks import inflated
from edgewise.runtime.messages import Step
from edgewise.runtime.sampling import Past, sample
from edgewise.runtime.scores import PromptScores, score
from edgewise.runtime.spans import Sampled, Span

ROWS = 16  # logits of so many positions are in memory at a time


class Sampler:
    """Samples behind spans. It keeps the tokens of requests under a penalty, as a cache keeps keys
    and values: they come with the spans, and go with what is dropped, or with the plan."""

    def __init__(self) -> None:
        self._epoch = -1
        self._past: dict[int, list[int]] = {}

    def prepare(self, step: Step) -> None:
        """Forget what is dropped, and take in the tokens that came."""
        if step.epoch != self._epoch:
            self._epoch, self._past = step.epoch, {}
        for request in step.dropped:
            self._past.pop(request, None)
        for span in step.spans:
            if span.wish is not None and span.wish.past:
                self._past.setdefault(span.request, []).extend(span.wish.past)

    def sample(self, logits: Tensor, span: Span) -> Sampled:
        """The token behind a span that samples. logits: float32 [vocabulary]."""
        assert span.sampling is not None
        wish, position = span.wish or Wish(), span.start + span.length
        past = Past(self._past.get(span.request, ()), wish.prompt)
        allowed = inflated(wish.allowed, len(logits)).to(logits.device) if wish.allowed else None
        token = sample(logits, span.sampling, position, past, allowed)
        told = None if wish.top is None else score(logits, token, wish.top)
        return Sampled(span.request, token, score=told)


def score_prompt(shard: Shard, states: Tensor, span: Span) -> tuple[Tensor | None, PromptScores]:
    """A span of a prompt whose tokens are to be scored: the logits behind it where it samples, and
    the scores of the tokens that follow each of its own. states: float32 [tokens, H], or token ids
    where the shard is the whole model. Raises NonFinite."""
    assert span.wish is not None
    scores, targets, top = [], span.wish.targets, span.wish.top or 0
    hidden = shard.hidden(states, [span.segment])
    for at in range(0, len(targets), ROWS):
        logits = shard.logits(hidden[at : at + ROWS])
        if not logits.isfinite().all():
            raise NonFinite("logits of the prompt are not finite", (span.request,))
        rows = zip(logits, targets[at : at + ROWS], strict=False)
        scores += [score(row, token, top) for row, token in rows]
    last = shard.logits(hidden[-1:])[0] if span.sampling else None
    return last, PromptScores(span.request, span.start + 1, tuple(scores))
