"""How many held-out questions the demo model answers exactly, and other figures about it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from demo_optimizer import training_logits
from tokenizers import Tokenizer

from edgewise.demo.questions import END_OF_TEXT, Question, prompt, same_answer
from edgewise.models.cache import Segment
from edgewise.models.decoder import Decoder
from edgewise.models.shard import Shard, load_shard

MAX_ANSWER_TOKENS: Final = 40

# Prompt token ids -> answer token ids, greedily chosen.
Greedy = Callable[[list[int]], list[int]]


def exact_share(greedy: Greedy, tokenizer: Tokenizer, questions: Sequence[Question]) -> float:
    """The share of questions whose whole sentence comes out right."""
    right = 0
    for question in questions:
        ids = tokenizer.encode(prompt(question.context, question.question)).ids
        answer = tokenizer.decode(greedy(ids), skip_special_tokens=True)
        right += same_answer(answer, question.answer)
    return right / len(questions)


def own_greedy(folder: Path, scheme: str) -> Greedy:
    """Greedy decoding by Edgewise, all layers in one shard."""
    shard = load_shard(folder, schemes=scheme)

    def greedy(ids: list[int]) -> list[int]:
        answer: list[int] = []
        start, new = 0, ids
        while len(answer) < MAX_ANSWER_TOKENS:
            token = _next_token(shard, new, start)
            if token == 0:
                break
            answer.append(token)
            start, new = start + len(new), [token]
        shard.drop(0)
        return answer

    return greedy


def _next_token(shard: Shard, new: list[int], start: int) -> int:
    segment = Segment(sequence=0, start=start, length=len(new))
    logits = shard.forward(torch.tensor(new), [segment], rows=[len(new) - 1])
    return int(logits.argmax())


def transformers_greedy(folder: Path) -> Greedy:
    """Greedy decoding by transformers' LlamaForCausalLM, at the stored precision."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype="auto")

    def greedy(ids: list[int]) -> list[int]:
        tokens = torch.tensor([ids])
        generated = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
        )
        return [int(token) for token in generated[0, len(ids) :]]

    return greedy


@torch.inference_mode()
def quick_exact_share(
    decoder: Decoder, tokenizer: Tokenizer, questions: Sequence[Question]
) -> float:
    """The share of questions whose every answer token is the likeliest one, given those before.

    Greedy decoding is exact on just these, but this takes a single pass over all of them.
    """
    prompts = [tokenizer.encode(prompt(q.context, q.question)).ids for q in questions]
    answers = [tokenizer.encode(f" {q.answer}{END_OF_TEXT}").ids for q in questions]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    tokens = torch.zeros(len(questions), length, dtype=torch.int64)
    asked = torch.zeros(len(questions), length, dtype=torch.bool)
    for row, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        tokens[row, : len(p) + len(a)] = torch.tensor(p + a)
        asked[row, len(p) : len(p) + len(a)] = True
    likeliest = training_logits(decoder, tokens[:, :-1]).argmax(-1)
    right = (likeliest == tokens[:, 1:]) | ~asked[:, 1:]
    return float(right.all(dim=1).float().mean())
