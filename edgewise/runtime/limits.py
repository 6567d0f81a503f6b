"""What a workload lets requests have: the same for the scheduler and every worker's cache."""

from dataclasses import dataclass

from edgewise.errors import PromptError
from edgewise.memory import PREFILL_CHUNK
from edgewise.runtime.engine import Request
from edgewise.specs import Workload

PAGE = 16  # tokens of a head's keys that about a page of memory holds


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan has room for.

    `sequences` requests hold a cache at the same time, all caches together `cache_tokens` tokens,
    given out in pages of `page`, one request at most `context`, prompt and answer. `lanes` batches
    with answers are in flight at the same time, in a pipeline of `stages`; with `barrier` the next
    ones enter when all of the last are back (EdgeShard's "bubbles"; without: "no-bubbles").

    Prompts enter in pieces that end at multiples of `chunk`; answers that are computed again, in
    pieces of at most `replay_chunk`. Prefixes are shared in multiples of `share` tokens. Where that
    is a multiple of `chunk`, a request's arithmetic depends neither on its company nor on restarts;
    otherwise the piece that a prefix ends in is computed in two.
    """

    sequences: int
    lanes: int
    cache_tokens: int
    context: int
    stages: int = 1
    chunk: int = 256
    replay_chunk: int = 16
    share: int = 256
    page: int = 16
    barrier: bool = False

    @property
    def places(self) -> int:
        """Batches in flight at most: one of prompt alone beside the lanes, or, while nobody is
        answered, as many of those as fill the pipeline."""
        return max(self.lanes + 1, self.stages)

    @property
    def pages(self) -> int:
        return self.cache_tokens // self.page

    def pages_of(self, tokens: int) -> int:
        return -(-tokens // self.page)

    def check(self, request: Request) -> None:
        """Raises PromptError where a request would not even fit alone."""
        prompt, new = len(request.prompt), request.max_tokens
        if prompt + new > self.context:
            raise PromptError(
                f"prompt and answer need {prompt} + {new} tokens, but this plan has room for "
                f"{self.context} a request; ask for {prompt + new - self.context} less"
            )
        if (needed := self.pages_of(prompt + new)) > self.pages:
            raise PromptError(
                f"prompt and answer need {prompt} + {new} tokens, {needed} pages of {self.page}, "
                f"but the cache has {self.pages}; ask for at most {self.pages * self.page} tokens"
            )


def limits_of(workload: Workload, max_context: int, stages: int = 1) -> Limits:
    """`sequences` at a time, sharing the cache that the workload is planned with: one alone may be
    as long as all of it, and as the model allows."""
    tokens = -(-workload.context // PAGE) * PAGE * workload.sequences
    return Limits(
        sequences=workload.sequences,
        lanes=workload.micro_batches,
        cache_tokens=tokens,
        context=min(tokens, max_context),
        stages=stages,
        chunk=PREFILL_CHUNK,
        share=PREFILL_CHUNK,
        page=PAGE,
    )
