"""What is checked before anything starts: requests against a model, routes against a cluster."""

from itertools import pairwise

from edgewise.clusters import Cluster
from edgewise.errors import PlanError, PromptError
from edgewise.plans import Plan
from edgewise.runtime.engine import Request
from edgewise.runtime.scores import MOST_TOP


def check_request(request: Request, context: int, vocab_size: int, model: str) -> None:
    """Raise PromptError where a request is empty, longer than `context`, or not of tokens."""
    if not request.prompt:
        raise PromptError("the prompt is empty")
    if not 0 <= min(request.prompt) <= max(request.prompt) < vocab_size:
        raise PromptError(f"the prompt has token ids outside 0 to {vocab_size - 1}")
    for token, _ in request.sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise PromptError(f"there is no token {token} to bias: ids are 0 to {vocab_size - 1}")
    if request.top is not None and not 0 <= request.top <= MOST_TOP:
        raise PromptError(f"log-probabilities of 0 to {MOST_TOP} tokens, not {request.top}")
    if request.max_tokens < 1:
        raise PromptError(f"max tokens must be at least 1, not {request.max_tokens}")
    if (size := len(request.prompt)) >= context:
        raise PromptError(
            f"the prompt has {size} tokens, but '{model}' has a context of {context}, answer "
            f"included; shorten it by at least {size + 1 - context}"
        )
    if size + request.max_tokens > context:
        raise PromptError(
            f"prompt and answer need {size} + {request.max_tokens} tokens, but '{model}' has a "
            f"context of {context}; ask for at most {context - size}"
        )


def check_votes(request: Request, votes: bool) -> None:
    """Raise PromptError where exits vote on what they are not asked for."""
    if votes and request.score_prompt:
        raise PromptError(
            f"a prompt is not scored with adapter '{request.adapter}': its exits vote on answers; "
            "leave the adapter out, or the prompt's log-probabilities"
        )


def check_route(plan: Plan, cluster: Cluster) -> None:
    """Raise PlanError where prompts would leave the source, or where two neighbouring stages lie on
    devices that nothing connects."""
    if (first := plan.stages[0].device) != cluster.source:
        raise PlanError(
            f"this plan puts the embedding on '{first}': prompts would leave the source "
            f"'{cluster.source}' as they are, not as activations"
        )
    ends = [cluster.source, *[stage.device for stage in plan.stages], cluster.source]
    for a, b in pairwise(ends):
        if cluster.link(a, b) is None:
            raise PlanError(f"the plan sends from '{a}' to '{b}', but the cluster has no such link")
