"""What a workload lets requests have: the same for the scheduler and every worker's cache."""

from edgewise.memory import PREFILL_CHUNK
from edgewise.runtime.sequences import Limits
from edgewise.specs import Workload

PAGE = 16  # tokens of a head's keys that about a page of memory holds


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
