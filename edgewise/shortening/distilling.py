"""One block, or an MLP, learns to do what a span of a frozen model does.

By states (LLM-Streamline, arXiv 2403.19135): with x what enters the span and y what leaves it, both
computed as text goes by and kept nowhere, minimise |block(x) - y|^2. By words: the block in the
span's place, minimise the cross-entropy of the next token; gradients go through the blocks behind
it, and through the head, which stay as they are.
"""

import math
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from edgewise.errors import NonFinite
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, Head, Layer, MlpBlock
from edgewise.models.finite import all_finite
from edgewise.models.loading import Loader
from edgewise.schemes import get_scheme
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import Replacement
from edgewise.shortening.spans import BlockSpan
from edgewise.tuning.cross_entropy import head_cross_entropy
from edgewise.tuning.frozen import Frozen
from edgewise.tuning.model import FrozenBlocks

FROZEN, LEARNING = get_scheme("bf16"), get_scheme("fp32")
WEIGHT_DECAY, LONGEST_GRADIENT = 1e-3, 5.0  # the paper's code
BETAS = (0.9, 0.95)  # the same
SPREAD = 0.02  # of random numbers that an MLP begins with: transformers' default


@dataclass(frozen=True, slots=True)
class DistillationStep:
    """What a step did. `loss`: by states, the squared error as a share of the square of what the
    span adds, so that 1 is to add nothing; by words, nats per token."""

    number: int
    by_words: bool
    loss: float
    tokens: int
    seconds: float


class FrozenModel(FrozenBlocks):
    """Layers of a model by number, which gradients go through, if any come."""

    def __init__(self, config: DecoderConfig, layers: Mapping[int, Layer]) -> None:
        super().__init__(config, layers)
        self.layers = layers
        head = layers.get(config.num_layers - 1)
        if isinstance(head, Head) and head.project is not None:
            head.add_module("project", Frozen(head.project))

    def nats(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of what follows in tokens [B, T], of states behind all blocks."""
        head = self.layers[self.config.num_layers - 1]
        assert isinstance(head, Head)
        inputs = head.inputs(states[:, :-1].flatten(0, 1))
        dtype = getattr(torch, FROZEN.compute)
        return head_cross_entropy(inputs, tokens[:, 1:].flatten(), head.out, dtype)


class Distillation:
    """What takes a span's place in training: `student` is in float32."""

    def __init__(
        self, checkpoint: Checkpoint, span: BlockSpan, recipe: DistillationRecipe, pieces: Tensor
    ) -> None:
        """Text is pieces [N, T] of token ids. Of the model as much is loaded, in bf16, as the
        recipe needs."""
        config, loader = checkpoint.config, Loader(checkpoint, torch.device("cpu"))
        last = config.num_layers if recipe.word_steps else span.end + 1
        layers = dict[int, Layer]()
        for number in range(last):
            layers[number] = loader.layer(number, FROZEN, layers.get(0))
        self.model, self.span, self.recipe = FrozenModel(config, layers), span, recipe
        self.student = (
            new_mlp(config, recipe.seed)
            if recipe.replacement is Replacement.MLP
            else loader.layer(span.first + 1, LEARNING)
        ).requires_grad_(True)
        self._batches = recipe.batches(pieces)

    def steps(self) -> Iterator[DistillationStep]:
        """All of the recipe. Raises NonFinite where the loss is no number any more."""
        yield from self._phase(self.recipe.steps, by_words=False)
        yield from self._phase(self.recipe.word_steps, by_words=True)

    def learned(self) -> Block:
        """The block as it is now, which does not change any more. Raises NonFinite."""
        if not all(all_finite(weights) for weights in self.student.parameters()):
            raise self._diverged("weights are no numbers any more")
        block = deepcopy(self.student).requires_grad_(False)
        assert isinstance(block, Block)
        return block

    def _phase(self, steps: int, *, by_words: bool) -> Iterator[DistillationStep]:
        optimizer = torch.optim.AdamW(
            self.student.parameters(), self.recipe.rate, BETAS, weight_decay=WEIGHT_DECAY
        )
        for number, tokens in enumerate(islice(self._batches, steps)):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(number, steps)
            loss = self.loss(tokens, by_words)
            if not math.isfinite(loss.item()):
                raise self._diverged(f"the loss was {loss.item()} at step {number} of {steps}")
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), LONGEST_GRADIENT)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            spent = time.perf_counter() - began
            yield DistillationStep(number, by_words, loss.item(), tokens.numel(), spent)

    def _diverged(self, what: str) -> NonFinite:
        return NonFinite(
            f"{what}, of what takes the place of {self.span}: most likely the learning rate, "
            f"{self.recipe.rate:g}, is too high; nothing was written"
        )

    def loss(self, tokens: Tensor, by_words: bool) -> Tensor:
        """Of a batch [B, T], by which the block has gradients."""
        model, span, end = self.model, self.span, self.model.config.num_blocks
        with torch.no_grad():
            before = model.through(model.entered(tokens), 0, span.first)
            after = before if by_words else model.through(before, span.first, span.end)
        with torch.enable_grad():
            guess = model.in_place(self.student, span.first, before)
            if by_words:
                return model.nats(model.through(guess, span.end, end), tokens)
            return missing_share(before, after, guess)


@torch.no_grad()
def new_mlp(config: DecoderConfig, seed: int) -> MlpBlock:
    """An MLP in float32 which hands on what it gets: relu(x) - relu(-x) is x, and of its 4 H
    numbers these are 2 H. The others begin as random ones that nothing is made of yet.

    The paper's begins with random matrices, so that, without a residual, it has to learn first what
    all blocks do: to leave the states nearly as they are."""
    mlp, hidden = MlpBlock(config), config.hidden_size
    generator, one = torch.Generator().manual_seed(seed), torch.eye(hidden)
    mlp.fc1.weight.normal_(std=SPREAD, generator=generator)
    mlp.fc1.weight[: 2 * hidden] = torch.cat((one, -one))
    mlp.fc2.weight.zero_()
    mlp.fc2.weight[:, : 2 * hidden] = torch.cat((one, -one), dim=1)
    for matrix in (mlp.fc1, mlp.fc2):
        matrix.bias.zero_()
    return mlp


def missing_share(before: Tensor, after: Tensor, guess: Tensor) -> Tensor:
    """Of what a span adds to states [B, T, H], the share that a guess lacks: |guess - after|^2 over
    |after - before|^2, a mean over tokens.

    The paper's is the mean of |guess - after|^2. First tokens, whose states are a thousand times as
    long as others' in many models, would be all that it sees."""
    missing = (guess - after).square().sum(-1)
    return (missing / (after - before).square().sum(-1).clamp(min=1e-12)).mean()
