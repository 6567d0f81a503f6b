"""What a model in some schemes is worth, beside the same model at full precision."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from edgewise.errors import InputError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.linear import Linear
from edgewise.models.shard import Shard, load_shard
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.quality.examples import Example
from edgewise.quality.metrics import bleu, exact_match, f1, quantization_ratio
from edgewise.quality.plan_loss import full_states
from edgewise.quality.running import run_sequences
from edgewise.quality.streaming import divergence
from edgewise.quantization.linear import PackedLinear
from edgewise.quantization.store import Store
from edgewise.schemes import CacheType, Wire

SLOTS = 64  # questions answered at a time
LARGEST = math.log(sys.float_info.max)  # that has an exponential
MOST_UNPACKED = 2**30  # bytes of a packed model that may be made whole while it answers

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over `count` questions. `loss` in nats per token of the right answer, given the
    question; `kl` of the model at full precision from this one, at the same tokens; `bleu`,
    `exact_match` and `f1` in [0, 1], of greedy answers; `ratio` of bits to 32 a weight."""

    count: int
    loss: float
    full_loss: float
    kl: float
    bleu: float
    exact_match: float
    f1: float
    ratio: float
    weight_bytes: int

    @property
    def perplexity(self) -> float:
        """Infinite where it is beyond floating point."""
        return math.exp(self.loss) if self.loss < LARGEST else math.inf


def measure_quality(
    model: str,
    schemes: Sequence[str],
    examples: Sequence[Example],
    *,
    method: str | None = None,
    cache: CacheType = CacheType.FULL,
    rounded: Mapping[int, Wire] | None = None,
    store: Store | None = None,
    alter: Callable[[Shard], object] = lambda shard: None,
    on_step: OnStep = lambda step: None,
) -> Quality:
    """A model with one scheme per layer, that cache, and the inputs of the layers `rounded` as they
    come by links; `alter` may change its weights once they are loaded. Raises InputError for
    examples beyond its context."""
    tokenizer = load_tokenizer(model)
    texts = [_Text.of(example, tokenizer) for example in examples]
    context = open_checkpoint(model).config.max_context
    longest = max(len(text.ids) for text in texts)
    if longest > context:
        raise InputError(
            f"a question with its answer has {longest} tokens, but '{model}' has a context of "
            f"{context}; leave it out"
        )
    shard = load_shard(
        model,
        schemes=schemes,
        slots=SLOTS,
        context=context,
        cache=cache,
        rounded=rounded,
        method=method,
        store=store,
    )
    weight_bytes = shard.weight_bytes
    if weight_bytes <= MOST_UNPACKED:
        _unpack(shard)
    alter(shard)
    loss, full_loss, kl = _losses(model, shard, texts, on_step)
    replies = _replies(shard, texts, tokenizer, on_step)
    answers = [example.answers for example in examples]
    pairs = list(zip(replies, answers, strict=True))
    return Quality(
        count=len(examples),
        loss=loss,
        full_loss=full_loss,
        kl=kl,
        bleu=bleu(replies, answers),
        exact_match=sum(exact_match(*pair) for pair in pairs) / len(pairs),
        f1=sum(f1(*pair) for pair in pairs) / len(pairs),
        ratio=quantization_ratio(open_checkpoint(model).spec, schemes),
        weight_bytes=weight_bytes,
    )


def _unpack(shard: Shard) -> None:
    """Matrices that torch would make whole at every step are made whole once."""
    for layer in shard.layers:
        for owner in list(layer.modules()):
            for name, module in list(owner.named_children()):
                if isinstance(module, PackedLinear) and module.native() is None:
                    setattr(owner, name, _whole(module))


def _whole(packed: PackedLinear) -> Linear:
    """The same in floating point, in the compute type."""
    rows, columns = packed.shape
    linear = Linear(columns, rows, bias=packed.bias is not None, device="meta")
    weight = packed.packed.dequantized().to(packed.compute_dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", packed.bias)
    return linear


def quality_steps(model: str, count: int) -> int:
    """How many times `measure_quality` reports progress."""
    return open_checkpoint(model).config.num_layers + math.ceil(count / SLOTS)


@dataclass(frozen=True, slots=True)
class _Text:
    """Token ids of a question and of its first right answer, end included."""

    prompt: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer

    @staticmethod
    def of(example: Example, tokenizer: Tokenizer) -> "_Text":
        prompt = tokenizer.encode(example.prompt)
        whole = tokenizer.encode(f"{example.prompt} {example.answers[0]}")
        shared = next(
            (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt)
        )
        stop = sorted(tokenizer.stop_ids)[:1]
        end = len(whole) - (1 if stop and whole[-1] == stop[0] else 0)
        return _Text(whole[:shared], whole[shared:end] + stop)


def _losses(
    model: str, shard: Shard, texts: Sequence[_Text], on_step: OnStep
) -> tuple[float, float, float]:
    """Loss, loss at full precision, and divergence, over the tokens of all answers."""
    ids, target = _padded(texts)
    full, full_head = full_states(open_checkpoint(model), ids, on_step)
    sums, count = torch.zeros(3, dtype=torch.float64), int(target.sum())
    rows = (torch.tensor(text.ids) for text in texts)
    for row, changed in enumerate(run_sequences(shard, rows)):
        at = target[row].nonzero()[:, 0]
        logits = full_head(full[row, at - 1]), changed[at - 1]
        right = ids[row, at].unsqueeze(-1)
        p, q = (x.double().log_softmax(-1).gather(-1, right) for x in logits)
        sums += torch.stack((-q.sum(), -p.sum(), divergence(*logits).double().sum()))
    on_step("head")
    loss, full_loss, kl = (sums / count).tolist()
    return loss, full_loss, kl


def _padded(texts: Sequence[_Text]) -> tuple[Tensor, Tensor]:
    """ids [N, T], filled up behind the ends, where no earlier position looks; and which of them
    belong to answers."""
    longest = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    target = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        end = len(text.ids)
        ids[row, :end] = torch.tensor(text.ids)
        target[row, len(text.prompt) : end] = True
    return ids, target


def _replies(
    shard: Shard, texts: Sequence[_Text], tokenizer: Tokenizer, on_step: OnStep
) -> list[str]:
    """What a whole model answers, SLOTS questions at a time."""
    replies: list[str] = []
    for start in range(0, len(texts), SLOTS):
        part = texts[start : start + SLOTS]
        room = max(2 * max(len(text.answer) for text in part), 32)
        ids = greedy(shard, [text.prompt for text in part], room, tokenizer.stop_ids)
        replies += [tokenizer.decode(reply).strip() for reply in ids]
        on_step(f"{len(replies)} of {len(texts)} answers")
    return replies


def greedy(
    shard: Shard, prompts: Sequence[list[int]], most: int, stops: frozenset[int]
) -> list[list[int]]:
    """Answers of a whole model to several prompts side by side, at most `most` tokens each."""
    answers: list[list[int]] = [[] for _ in prompts]
    entering = dict(enumerate(prompts))
    while entering:
        starts = {n: len(prompts[n]) + len(answers[n]) - len(ids) for n, ids in entering.items()}
        segments = [Segment(n, starts[n], len(ids)) for n, ids in entering.items()]
        last = [end - 1 for end in accumulate(map(len, entering.values()))]
        inputs = torch.tensor([token for ids in entering.values() for token in ids])
        tokens = shard.forward(inputs, segments, last).argmax(-1).tolist()
        going = {}
        for number, token in zip(entering, tokens, strict=True):
            if token in stops:
                continue
            answers[number].append(token)
            full = len(prompts[number]) + len(answers[number]) >= shard.cache.context
            if len(answers[number]) < most and not full:
                going[number] = [token]
        for number in entering.keys() - going.keys():
            shard.drop(number)
        entering = going
    return answers
