"""One decoder for every supported family: layers as modules, differences as configuration.

Shapes: `...` is any leading shape: [tokens] when running, [batch, time] when training. H hidden
size, N query heads, K key/value heads, D head size. Hidden states are float32 between layers; a
layer multiplies in the type of its weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewise.models.config import MLP_WIDTH, DecoderConfig
from edgewise.models.linear import Linear
from edgewise.models.rotary import Rotation, inverse_frequencies, rotate, rotation
from edgewise.specs import LayerKind

# (query [..., N, D], key [..., K, D], value [..., K, D]) -> [..., N, D]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# (matrix's name, what it was multiplied with [..., columns], product [..., rows]) -> [..., rows]
Adapt = Callable[[str, Tensor, Tensor], Tensor]
Norm = nn.RMSNorm | nn.LayerNorm

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
}


def _norm(config: DecoderConfig, size: int) -> Norm:
    if config.norm == "rms":
        return nn.RMSNorm(size, eps=config.norm_eps)
    return nn.LayerNorm(size, eps=config.norm_eps)


def _table(rows: int, size: int) -> nn.Embedding:
    # Given its weight, torch does not initialise it: on the meta device that would import its
    # compiler, 70 MB in every worker.
    return nn.Embedding(rows, size, _weight=torch.empty(rows, size))


@dataclass(frozen=True, slots=True)
class Origin:
    """What a layer was loaded from, how, and where to: those of one origin are the same, as long as
    a model's files are. `rounding` is the method that was asked for."""

    model: str
    number: int
    scheme: str
    rounding: str | None
    device: str


class Layer(nn.Module):
    """One layer of a model; `kind` says which, `origin` where it comes from, if it was loaded."""

    kind: LayerKind
    origin: Origin | None = None


class Embedding(Layer):
    """Layer 0: token ids [...] -> hidden states [..., H]."""

    kind = LayerKind.EMBEDDING

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, hidden = config.embed_size, config.hidden_size
        self.offset = config.position_offset
        self.tokens = _table(config.vocab_size, size)
        self.project = Linear(size, hidden, bias=False) if size != hidden else None
        learned = config.max_context + config.position_offset
        self.positions = _table(learned, hidden) if config.rope is None else None

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        states = self.tokens(tokens)
        if self.project is not None:
            states = self.project(states)
        if self.positions is not None:
            states = states + self.positions(positions + self.offset)
        return states.float()


def as_it_is(matrix: str, inputs: Tensor, product: Tensor) -> Tensor:
    """No adapter."""
    return product


class DecoderBlock(Layer):
    """Layers 1..L: attention and MLP, each added to the hidden states."""

    kind = LayerKind.BLOCK

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.heads = (config.num_heads, config.num_kv_heads, head_dim)
        self.gated, self.norm_first = config.gated, config.norm_first
        self.activation = _ACTIVATIONS[config.activation]
        query, up = config.num_heads * head_dim, config.ffn_size * (2 if config.gated else 1)
        fused = query + 2 * config.num_kv_heads * head_dim
        self.attention_norm = _norm(config, hidden)
        self.qkv = Linear(hidden, fused, bias=config.qkv_bias)
        self.q_norm = _norm(config, head_dim) if config.qk_norm else None
        self.k_norm = _norm(config, head_dim) if config.qk_norm else None
        self.out = Linear(query, hidden, bias=config.out_bias)
        self.mlp_norm = _norm(config, hidden)
        self.up = Linear(hidden, up, bias=config.mlp_bias)
        self.down = Linear(config.ffn_size, hidden, bias=config.mlp_bias)

    def forward(
        self,
        states: Tensor,
        turn: Rotation | None,
        attend: Attend,
        adapt: Adapt = as_it_is,
    ) -> Tensor:
        """states [..., H] -> [..., H]."""
        if self.norm_first:
            normed = _normed(self.attention_norm, states)
            states = states + self._attention(normed, turn, attend, adapt)
            return states + self._mlp(_normed(self.mlp_norm, states), adapt)
        # OPT-350m normalises after each addition.
        states = states + self._attention(self._cast(states), turn, attend, adapt)
        states = _normed(self.attention_norm, states).float()
        return _normed(self.mlp_norm, states + self._mlp(self._cast(states), adapt)).float()

    def _cast(self, states: Tensor) -> Tensor:
        return states.to(self.attention_norm.weight.dtype)

    def _attention(
        self, states: Tensor, turn: Rotation | None, attend: Attend, adapt: Adapt
    ) -> Tensor:
        num_heads, num_kv, head_dim = self.heads
        qkv = adapt("qkv", states, self.qkv(states)).unflatten(
            -1, (num_heads + 2 * num_kv, head_dim)
        )
        rotated, v = qkv.split((num_heads + num_kv, num_kv), dim=-2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rotated.split((num_heads, num_kv), dim=-2)
            rotated = torch.cat((self.q_norm(q), self.k_norm(k)), dim=-2)
        if turn is not None:
            rotated = rotate(rotated, turn)
        q, k = rotated.split((num_heads, num_kv), dim=-2)
        attended = attend(q, k, v).flatten(-2)
        return adapt("out", attended, self.out(attended))

    def _mlp(self, states: Tensor, adapt: Adapt) -> Tensor:
        up = adapt("up", states, self.up(states))
        if self.gated:
            gate, up = up.chunk(2, dim=-1)
            up = self.activation(gate) * up
        else:
            up = self.activation(up)
        return adapt("down", up, self.down(up))


def _normed(norm: Norm, states: Tensor) -> Tensor:
    """Normalise in float32 and hand over in the type of the layer's weights."""
    dtype = norm.weight.dtype
    return norm(states) if dtype == states.dtype else _normalised(norm, states).to(dtype)


def _normalised(norm: Norm, states: Tensor) -> Tensor:
    """Normalise in float32."""
    weight, shape = norm.weight.float(), norm.normalized_shape
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(states, shape, weight, norm.bias.float(), norm.eps)
    return F.rms_norm(states, shape, weight, norm.eps)


class MlpBlock(Layer):
    """What took the place of decoder blocks (LLM-Streamline, arXiv 2403.19135, its first version):
    with H -> 4 H -> H numbers

        fc2(relu(fc1(x)))

    and nothing else: no norm, no residual, no attention, so that it keeps nothing of a sequence. As
    nothing carries the states past it, it computes in float32, whatever its weights are in.
    Adapters add nothing to it."""

    kind = LayerKind.MLP

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, MLP_WIDTH * config.hidden_size
        self.fc1 = Linear(hidden, wide, bias=True)
        self.fc2 = Linear(wide, hidden, bias=True)

    def forward(
        self, states: Tensor, turn: Rotation | None, attend: Attend, adapt: Adapt = as_it_is
    ) -> Tensor:
        """states [..., H] -> [..., H]."""
        made: Tensor = self.fc2(F.relu(self.fc1(states)))
        return made


Block = DecoderBlock | MlpBlock  # layers 1..L


class Head(Layer):
    """Layer L+1: hidden states [..., H] -> logits [..., vocabulary]."""

    kind = LayerKind.HEAD

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, hidden = config.embed_size, config.hidden_size
        self.norm = _norm(config, hidden) if config.final_norm else None
        self.project = Linear(hidden, size, bias=False) if size != hidden else None
        self.out = Linear(size, config.vocab_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """In float32 from the norm to the logits: bf16 holds numbers near 25, as logits are, to an
        eighth, which makes ties of what is not, and a tie decides an answer."""
        logits: Tensor = self.out(self.inputs(states))
        return logits

    def inputs(self, states: Tensor) -> Tensor:
        """What the matrix is multiplied with."""
        states = _normalised(self.norm, states) if self.norm is not None else states
        return states if self.project is None else self.project(states)


def build_layer(config: DecoderConfig, layer: int) -> Layer:
    """The module of one layer, weights uninitialised as torch leaves them."""
    if layer == 0:
        return Embedding(config)
    if layer == config.num_layers - 1:
        return Head(config)
    return MlpBlock(config) if layer - 1 in config.mlp_blocks else DecoderBlock(config)


class Decoder(nn.Module):
    """All layers, for training and as the reference that shards are compared with: no cache."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        embedding, head = Embedding(config), Head(config)
        blocks = [build_layer(config, number + 1) for number in range(config.num_blocks)]
        self.layers = nn.ModuleList([embedding, *blocks, head])
        if config.tied:
            head.out.weight = embedding.tokens.weight

    def init_weights(self, std: float = 0.02, seed: int = 0) -> None:
        """Normal weights, those that write to the hidden states scaled down with depth."""
        generator = torch.Generator().manual_seed(seed)
        depth = math.sqrt(2 * self.config.num_blocks)
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if parameter.ndim == 2:
                    writes = name in ("out.weight", "down.weight") and not isinstance(layer, Head)
                    scale = std / depth if writes else std
                    nn.init.normal_(parameter, std=scale, generator=generator)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> logits [B, T, vocabulary], every position seeing those before it."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        rope = self.config.rope
        turn = None
        if rope is not None:
            frequency = inverse_frequencies(rope, self.config.head_dim).to(tokens.device)
            turn = rotation(frequency, positions[:1])
        states = self.layers[0](tokens, positions)
        for block, window in zip(self.layers[1:-1], self.config.windows, strict=True):
            states = block(states, turn, causal_attention(window))
        return self.layers[-1](states)


def causal_mask(queries: int, keys: int, window: int | None) -> Tensor:
    """Which of `keys` each of the last `queries` positions sees: bool [queries, keys]."""
    row = torch.arange(keys - queries, keys).unsqueeze(1)
    column = torch.arange(keys)
    seen = column <= row
    return seen if window is None else seen & (column > row - window)


def causal_attention(window: int | None) -> Attend:
    """Attention among q, k, v [B, T, heads, D], without a cache."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        length = q.shape[2]
        mask = None
        if window is not None and window < length:
            mask = causal_mask(length, length, window).to(q.device)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
        )
        return attended.transpose(1, 2)

    return attend
