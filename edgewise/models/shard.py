"""A shard runs a half-open range of a model's layers, with its own cache."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgewise.errors import ModelError, PlanError
from edgewise.models.cache import KVCache, Segment
from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import (
    Block,
    Embedding,
    Head,
    Layer,
    build_layer,
    inverse_frequencies,
    rotation,
)
from edgewise.models.names import table_name, tensor_names
from edgewise.schemes import DEFAULT, Scheme, get_scheme


class Shard:
    """Layers [start, start + len(layers)) of a model.

    `forward` takes token ids if the shard holds layer 0, hidden states otherwise, and returns
    logits if it holds the last layer, hidden states otherwise.
    """

    def __init__(
        self,
        config: DecoderConfig,
        start: int,
        layers: list[Layer],
        *,
        slots: int,
        context: int,
    ) -> None:
        self.config, self.start, self.layers = config, start, layers
        self.device = next(layers[0].parameters()).device
        blocks = [layer for layer in layers if isinstance(layer, Block)]
        self.cache = KVCache(
            (config.num_kv_heads, config.head_dim),
            [next(block.parameters()).dtype for block in blocks],
            slots,
            context,
            self.device,
        )
        self._frequency = (
            inverse_frequencies(config.rope, config.head_dim).to(self.device)
            if config.rope
            else None
        )

    @property
    def end(self) -> int:
        return self.start + len(self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, shared ones once."""
        found = {p.data_ptr(): p.nbytes for layer in self.layers for p in layer.parameters()}
        return sum(found.values())

    @torch.inference_mode()
    def forward(
        self, x: Tensor, segments: list[Segment], rows: Sequence[int] | None = None
    ) -> Tensor:
        """Run the tokens of `segments`, which lie one after the other in x.

        x: token ids int64 [tokens], or hidden states float32 [tokens, H]. Returns float32 [tokens,
        H], or logits [tokens, vocabulary], of the tokens `rows` only where given.
        """
        x = x.to(self.device)
        positions = torch.cat([torch.arange(s.start, s.end) for s in segments]).to(self.device)
        turn = None if self._frequency is None else rotation(self._frequency, positions)
        block = 0
        for number, layer in enumerate(self.layers, start=self.start):
            if isinstance(layer, Embedding):
                x = layer(x, positions)
            elif isinstance(layer, Block):
                window = self.config.windows[number - 1]
                x = layer(x, turn, self.cache.attention(block, segments, window))
                block += 1
            else:
                x = layer(x if rows is None else x[list(rows)])
        return x

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self.cache.drop(sequence)


def load_shard(
    model: str | Path | Checkpoint,
    start: int = 0,
    end: int | None = None,
    schemes: str | Sequence[str] = DEFAULT,
    *,
    device: str = "cpu",
    slots: int = 1,
    context: int | None = None,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Shard:
    """Load layers [start, end) of a model, reading only their tensors.

    `schemes` is one scheme, or one per layer. The cache has room for `slots` sequences of `context`
    tokens each (default: the model's maximum). Raises ModelError, PlanError, SchemeError.
    """
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model)
    config = checkpoint.config
    end = config.num_layers if end is None else end
    if not 0 <= start < end <= config.num_layers:
        raise PlanError(f"layers [{start}, {end}) are not within [0, {config.num_layers})")
    names = [schemes] * (end - start) if isinstance(schemes, str) else list(schemes)
    if len(names) != end - start:
        raise PlanError(f"{len(names)} schemes for {end - start} layers")
    layers: list[Layer] = []
    for number, scheme in zip(range(start, end), map(get_scheme, names), strict=True):
        shared = _shared_table(config, number, layers, scheme)
        layers.append(_load_layer(checkpoint, number, scheme, torch.device(device), shared))
        on_layer(number)
    return Shard(config, start, layers, slots=slots, context=context or config.max_context)


def random_shard(
    config: DecoderConfig,
    start: int,
    end: int,
    scheme: str,
    *,
    device: str,
    slots: int,
    context: int,
) -> Shard:
    """Layers of a model's shape with random weights: for timing, without a checkpoint."""
    dtype = getattr(torch, get_scheme(scheme).compute)
    layers = [build_layer(config, i).to(device, dtype) for i in range(start, end)]
    for parameter in (p for layer in layers for p in layer.parameters()):
        parameter.requires_grad_(False)
        if parameter.ndim == 2:
            parameter.normal_(std=0.02)
    return Shard(config, start, layers, slots=slots, context=context)


def _shared_table(
    config: DecoderConfig, number: int, layers: list[Layer], scheme: Scheme
) -> Tensor | None:
    """The embedding matrix that a tied head shares, if this shard already holds it."""
    if not (config.tied and number == config.num_layers - 1 and layers):
        return None
    first = layers[0]
    dtype = getattr(torch, scheme.compute)
    if isinstance(first, Embedding) and first.tokens.weight.dtype == dtype:
        return first.tokens.weight
    return None


def _load_layer(
    checkpoint: Checkpoint, number: int, scheme: Scheme, device: torch.device, shared: Tensor | None
) -> Layer:
    config, dtype = checkpoint.config, getattr(torch, scheme.compute)
    with torch.device("meta"):
        layer = build_layer(config, number)
    state = {}
    for parameter, empty in layer.state_dict().items():
        names = tensor_names(config.names, layer.kind, parameter, number - 1)
        if isinstance(layer, Head) and parameter == "out.weight" and config.tied:
            names = (table_name(config.names),)
            if shared is not None:
                state[parameter] = shared
                continue
        state[parameter] = _load_parameter(checkpoint, names, empty.shape, dtype, device)
    layer.load_state_dict(state, assign=True)
    return layer.requires_grad_(False)


def _load_parameter(
    checkpoint: Checkpoint,
    names: tuple[str, ...],
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Stack the rows of the named tensors, one tensor in memory at a time."""
    whole, row = torch.empty(shape, dtype=dtype, device=device), 0
    for name in names:
        part = checkpoint.read(name)
        fits = part.shape[1:] == shape[1:] and row + part.shape[0] <= shape[0]
        if not fits or (name == names[-1] and row + part.shape[0] != shape[0]):
            expected = [shape[0] - row, *shape[1:]]
            raise ModelError(
                f"{checkpoint.model}: tensor '{name}' in {checkpoint.files[checkpoint.name(name)]} "
                f"has shape {list(part.shape)}, but the configuration asks for {expected}"
            )
        whole[row : row + part.shape[0]] = part
        row += part.shape[0]
    return whole
