"""How much each layer loses in each scheme.

    kl         KL(full || changed) of the next token, nats, when only that layer changes: its shape
               over the layers from one backward pass (fisher.py), its size from what the whole
               model loses in that scheme, measured
    weights    DILEMMA (arXiv 2503.01704): squared differences of weights, over all weights of the
               model; the row (5) of its program that fits its Table 1 (section 2.3 of the notes)
    variance   LLM-PQ (arXiv 2403.01136): sum over matrices of S^2 Var[X], S the widest row's range
               over 2^(b-1) - 1, X the matrix's inputs; matrices of the MLP count four times, as in
               its published code (section 3.3 of the notes)

Only `kl` is a loss that can be compared with a model's own; the others rank.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from edgewise.errors import InputError
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.decoder import Block, Layer
from edgewise.models.loading import Loader, matrix_modules
from edgewise.models.shard import load_shard
from edgewise.quality.fisher import block_gradient, head_gradient, quadratic_loss
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.running import run_sequences
from edgewise.quality.streaming import (
    cross_entropy,
    divergence,
    run_in_parts,
    run_layer,
    watched,
)
from edgewise.quantization.stacked import numbers_of
from edgewise.quantization.store import Store
from edgewise.schemes import Scheme, get_scheme
from edgewise.sensitivities import Sensitivity

METRICS = ("kl", "weights", "variance")
MEASURING = 4  # version of how they are measured
FULL = get_scheme("fp32")
MLP_WEIGHT = 4.0
SHAPED_ON, SIZED_ON = 8, 16  # sequences on which single layers, and whole models, are measured
MOST_IN_MEMORY = 2 * 2**30  # bytes of hidden states; beyond that they are kept in a file

OnStep = Callable[[str], None]


def measure_sensitivity(
    model: str,
    schemes: Sequence[str],
    ids: Tensor,
    metric: str = "kl",
    *,
    method: str | None = None,
    store: Store | None = None,
    on_step: OnStep = lambda step: None,
) -> Sensitivity:
    """What every layer of a model loses in every scheme, on sequences ids [B, T]. Raises
    InputError, SchemeError, ModelError."""
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}'; known metrics: {', '.join(METRICS)}")
    checkpoint = open_checkpoint(model)
    stored = tuple(map(get_scheme, schemes))
    if metric == "variance" and (sparse := [x.name for x in stored if x.sparse]):
        raise InputError(f"metric 'variance' knows of no zeros ({sparse[0]}): use kl or weights")
    measured = _Pass(checkpoint, stored, ids, method, store, on_step)
    if metric == "kl":
        losses, reference = measured.divergences()
    else:
        losses, reference = measured.ranks(_squares if metric == "weights" else _variances)
    if metric == "weights":
        count = sum(r * c for layer in checkpoint.spec.layers for r, c in layer.matrices)
        losses = {name: [loss / count for loss in layers] for name, layers in losses.items()}
    by_scheme = {name: tuple(layers) for name, layers in losses.items()}
    return Sensitivity(checkpoint.spec.digest, metric, reference, by_scheme)


def sensitivity_steps(model: str, schemes: int) -> int:
    """How many times `measure_sensitivity` reports progress, at most."""
    return 2 * open_checkpoint(model).config.num_layers + schemes


@dataclass(frozen=True)
class _Pass:
    """One pass over a model's layers on some sequences [B, T]."""

    checkpoint: Checkpoint
    schemes: tuple[Scheme, ...]
    ids: Tensor
    method: str | None
    store: Store | None
    on_step: OnStep

    @property
    def last(self) -> int:
        return self.checkpoint.config.num_layers - 1

    def load(self, number: int, scheme: Scheme) -> Layer:
        loader = Loader(self.checkpoint, torch.device("cpu"), self.method, self.store)
        return loader.layer(number, scheme)

    def run(self, number: int, layer: Layer, inputs: Tensor) -> Tensor:
        return run_layer(self.checkpoint.config, number, layer, inputs)

    def changed(self, number: int, scheme: Scheme, inputs: Tensor) -> Iterator[Tensor]:
        """What a layer in a scheme makes of its inputs, sequence by sequence."""
        shard = load_shard(
            self.checkpoint,
            number,
            number + 1,
            scheme.name,
            context=inputs.shape[1],
            method=self.method,
            store=self.store,
        )
        return run_sequences(shard, inputs)

    def divergences(self) -> tuple[dict[str, list[float]], float]:
        """Losses per scheme and layer, and the model's own loss."""
        losses = {scheme.name: [0.0] * (self.last + 1) for scheme in self.schemes}
        with _states(self.last, self.ids, self.checkpoint.config.hidden_size) as states:
            hidden = self.ids
            for number in range(self.last):
                hidden = run_in_parts(
                    self.checkpoint.config, number, self.load(number, FULL), hidden
                )
                states[number] = hidden
                self.on_step(f"layer {number}")
            reference = self._shapes(states, losses)
        self._sizes(losses)
        return losses, reference

    def _shapes(self, states: Tensor, losses: dict[str, list[float]]) -> float:
        """Each layer's loss: the head's as it is, and going back from it, all others' to second
        order, on the first of all sequences. `states` are the layers' outputs. Returns the model's
        own loss, on all."""
        changing, last = [s for s in self.schemes if s != FULL], self.last
        head = self.load(last, FULL)
        reference = cross_entropy(lambda inputs: self.run(last, head, inputs), states[-1], self.ids)
        states = states[:, :SHAPED_ON]
        below = states[0]
        for scheme in changing:
            pairs = zip(states[-1], self.changed(last, scheme, states[-1]), strict=True)
            rows = [divergence(self.run(last, head, row), logits).mean() for row, logits in pairs]
            losses[scheme.name][last] = float(torch.stack(rows).mean())
        gradient = head_gradient(head, states[-1], torch.Generator().manual_seed(0))
        self.on_step("head")
        for number in range(last - 1, -1, -1):
            before, output = self.ids[: states.shape[1]], states[0]
            if number > 0:
                before, full = states[number - 1], self.load(number, FULL)
                assert isinstance(full, Block)
                output, below = block_gradient(
                    self.checkpoint.config, number, full, before, gradient
                )
            for scheme in changing:
                change = torch.stack(list(self.changed(number, scheme, before))) - output
                losses[scheme.name][number] = quadratic_loss(gradient, change)
            gradient = below
            self.on_step(f"layer {number}, backwards")
        return reference

    def _sizes(self, losses: dict[str, list[float]]) -> None:
        """Scale each scheme's losses to the sum that the whole model loses in it."""
        names = [scheme.name for scheme in self.schemes if scheme != FULL]
        whole = plan_losses(
            self.checkpoint.model,
            [(name,) * (self.last + 1) for name in names],
            self.ids[:SIZED_ON],
            method=self.method,
            store=self.store,
        )
        for name, loss in zip(names, whole, strict=True):
            total = sum(losses[name])
            losses[name] = [share * loss.mean / total if total else 0.0 for share in losses[name]]
            self.on_step(f"all layers in {name}")

    def ranks(
        self, rank: "Callable[[Layer, Layer, Scheme, dict[str, list[Tensor]]], float]"
    ) -> tuple[dict[str, list[float]], float]:
        """What `rank` makes of every layer at full precision, in a scheme, and of its inputs."""
        states = self.ids
        losses: dict[str, list[float]] = {s.name: [] for s in self.schemes}
        last = self.checkpoint.config.num_layers - 1
        for number in range(last + 1):
            full, before = self.load(number, FULL), states
            with watched(full) as seen:
                states = self.run(number, full, states)
            for scheme in self.schemes:
                changed = full if scheme == FULL else self.load(number, scheme)
                losses[scheme.name].append(rank(full, changed, scheme, seen))
            self.on_step(f"layer {number}")
        return losses, cross_entropy(lambda inputs: self.run(last, full, inputs), before, self.ids)


def _squares(full: Layer, changed: Layer, scheme: Scheme, seen: dict[str, list[Tensor]]) -> float:
    """Sum of squared differences of weights."""
    total = 0.0
    for name, module in matrix_modules(full):
        rounded = getattr(changed, name)
        total += float((numbers_of(rounded) - module.weight).double().square().sum())
    return total


def _variances(full: Layer, changed: Layer, scheme: Scheme, seen: dict[str, list[Tensor]]) -> float:
    """Sum over matrices of S^2 times the summed variance of the inputs' columns."""
    total = 0.0
    for name, module in matrix_modules(full):
        inputs = seen.get(name)
        if scheme == FULL or not inputs:
            continue
        spread = float((module.weight.amax(1) - module.weight.amin(1)).max())
        step = spread / (2 ** (scheme.bits - 1) - 1)
        weight = MLP_WEIGHT if name in ("up", "down") else 1.0
        total += weight * step**2 * float(torch.cat(inputs).double().var(0, correction=0).sum())
    return total


@contextmanager
def _states(count: int, ids: Tensor, hidden_size: int) -> Iterator[Tensor]:
    """Room for `count` sets of hidden states [count, B, T, H]: in memory, or where that would be
    too much in a temporary file."""
    shape = (count, *ids.shape, hidden_size)
    size = math.prod(shape)
    if size * 4 <= MOST_IN_MEMORY:
        yield torch.empty(shape)
        return
    with tempfile.NamedTemporaryFile(prefix="edgewise-states-") as file:
        yield torch.from_file(file.name, shared=True, size=size).view(shape)
