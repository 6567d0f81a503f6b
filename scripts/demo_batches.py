"""Training batches for the demo model, drawn on the fly."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from edgewise.demo.questions import draw_episode, training_pieces

# What a context says is random: learning it would drown what is to be learned from the answers.
CONTEXT_WEIGHT: Final = 0.02
TOKENS_PER_FACT: Final = 34  # A statement, its question and its answer.
LONG_CONTEXT: Final = 8  # Some training contexts are longer than any asked in evaluation.
SPACED_SHARE: Final = 0.25  # Of contexts with only a space before the first question.

# A text in pieces, each with whether it is an answer.
Pieces = Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class Batch:
    """Token ids [B, T + 1] and the weight [B, T] of predicting each token but the first."""

    tokens: Tensor
    weights: Tensor

    @property
    def answers(self) -> Tensor:
        """Which predictions belong to an answer."""
        return self.weights == 1


def draw_batch(rng: random.Random, tokenizer: Tokenizer, progress: float, size: int) -> Batch:
    """About `size` tokens of episodes that have equally many facts, each of them asked for."""
    fact_count = draw_fact_count(rng, progress)
    episodes = range(max(1, size // (TOKENS_PER_FACT * fact_count)))
    return make_batch(tokenizer, [_draw_pieces(rng, fact_count) for _ in episodes])


def _draw_pieces(rng: random.Random, fact_count: int) -> Pieces:
    separator = " " if rng.random() < SPACED_SHARE else "\n"
    return training_pieces(draw_episode(rng, fact_count, fact_count), separator)


def make_batch(tokenizer: Tokenizer, texts: Sequence[Pieces]) -> Batch:
    """Tokens of texts, padded to the longest with weight 0."""
    rows = [_row(tokenizer, pieces) for pieces in texts]
    length = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    for row, (ids, weight) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        weights[row, : len(ids)] = torch.tensor(weight)
    return Batch(tokens, weights[:, 1:].contiguous())


def _row(tokenizer: Tokenizer, pieces: Pieces) -> tuple[list[int], list[float]]:
    """Token ids of one text, and how much each counts."""
    tokens: list[int] = []
    weights: list[float] = []
    for text, is_answer in pieces:
        ids = tokenizer.encode(text).ids
        tokens += ids
        weights += [1.0 if is_answer else CONTEXT_WEIGHT] * len(ids)
    return tokens, weights


def draw_fact_count(rng: random.Random, progress: float) -> int:
    """How many facts a batch's contexts have: few at first, later up to `LONG_CONTEXT`."""
    if progress < 0.04:
        return rng.randint(1, 2)
    if progress < 0.3:
        return rng.randint(2, 4)
    return LONG_CONTEXT if rng.random() < 0.1 else rng.randint(1, 6)
