"""Multiple choice from real text: which of four continuations is the true one.

No data set is needed: contexts and true continuations are of a text that was held out, and the
false ones are true elsewhere in it. A model chooses the continuation of least perplexity.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError

OPTIONS, CONTEXT, CONTINUATION = 4, 32, 16  # tokens


@dataclass(frozen=True)
class Choices:
    """ids int64 [N, OPTIONS, CONTEXT + CONTINUATION]: each question's options behind its context,
    of which the one at `right` [N] is true."""

    ids: Tensor
    right: Tensor

    @staticmethod
    def drawn(text: Tensor, count: int, seed: int = 0) -> "Choices":
        """`count` questions from token ids [tokens]. Raises InputError where the text is short."""
        rows = text[: len(text) // (CONTEXT + CONTINUATION) * (CONTEXT + CONTINUATION)]
        rows = rows.view(-1, CONTEXT + CONTINUATION)
        if len(rows) < max(count, OPTIONS):
            raise InputError(f"{len(text)} tokens of text are too few for {count} questions")
        draw, ids, right = random.Random(seed), list[Tensor](), list[int]()
        for asked in draw.sample(range(len(rows)), count):
            others = [n for n in draw.sample(range(len(rows)), OPTIONS) if n != asked]
            options = others[: OPTIONS - 1]
            right.append(draw.randrange(OPTIONS))
            options.insert(right[-1], asked)
            ends = rows[options, CONTEXT:]
            ids.append(torch.cat((rows[asked, :CONTEXT].expand(OPTIONS, -1), ends), dim=1))
        return Choices(torch.stack(ids), torch.tensor(right))

    def are_right(self, nats: Tensor) -> Tensor:
        """Whether each question [N] is answered rightly, by nats [N, OPTIONS] of a token."""
        return nats.argmin(1) == self.right


def stability(original: Tensor, original_right: Tensor, right: Tensor) -> tuple[float, float]:
    """LLM-Streamline's stability by its formula, and how many questions it is really of.

    With PPL_ij the original model's perplexity of option j of question i,

        w = softmax_i(std_j(PPL_ij)),   stability = sum of w_i where both are right or both wrong

    The paper's code sums the first weights instead, as many as there are matches. `original` is
    float64 [N, OPTIONS] nats, the others bool [N]. The second number is 1 / sum of w_i^2:
    perplexities spread so far that a softmax of them leaves little but the largest.
    """
    weights = original.exp().std(1, correction=0).softmax(0)
    return float(weights[original_right == right].sum()), float(1 / weights.square().sum())
