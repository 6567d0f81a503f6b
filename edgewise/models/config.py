"""A decoder's architecture as data: Hugging Face `config.json` in, `DecoderConfig` out.

Families differ in values, never in code paths named after a family. A new family is one row in
`ARCHITECTURES` and one table of tensor names in `names.py`.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgewise.errors import ModelError
from edgewise.models.config_keys import architectures, block_windows, check_sizes
from edgewise.schemes import DEFAULT
from edgewise.specs import LayerKind, LayerSpec, ModelSpec

# The `model_type` of what is no model of transformers', so that it is refused there rather than
# misread; and how `quantization_config` names the matrices of packed_checkpoint.py.
EDGEWISE = "edgewise"
# By layer, by matrix: (rows, scheme) of its parts.
Stored = Sequence[tuple[tuple[tuple[int, str], ...], ...]]
MLP_BLOCKS = "mlp_blocks"  # in a `config.json`, which is none of transformers' then
MLP_WIDTH = 4  # of an MLP in a block's place, in hidden sizes


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. `llama3`: (factor, low, high, original_context) of Llama 3's scaling;
    `divisors` [D/2]: what every frequency is divided by, as GGUF files state the same."""

    theta: float
    linear_factor: float = 1.0
    llama3: tuple[float, float, float, int] | None = None
    divisors: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Everything that distinguishes one decoder-only transformer from another.

    `windows[i]` is how many keys block i sees, itself included (None: all of them). `rope` is None
    where positions are learned; row p + `position_offset` of that table then belongs to position p.
    `embed_size` differs from `hidden_size` where the embedding is projected in and out (OPT-350m).
    The blocks `mlp_blocks` are no decoder's, but an MLP each (decoder.MlpBlock).
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    norm: str
    norm_eps: float
    activation: str
    gated: bool
    rope: Rope | None
    windows: tuple[int | None, ...]
    tied: bool
    embed_size: int
    names: str
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    position_offset: int = 0
    norm_first: bool = True
    final_norm: bool = True
    mlp_blocks: tuple[int, ...] = ()

    @property
    def num_layers(self) -> int:
        """Embedding, blocks, head."""
        return self.num_blocks + 2

    @staticmethod
    def from_dict(hf: Mapping[str, Any], where: str = "config.json") -> "DecoderConfig":
        """From the contents of a `config.json`. Raises ModelError, which names `where`."""
        if "quantization_config" in hf and not is_packed(hf):
            raise ModelError(f"{where}: quantized checkpoints are not supported; give the original")
        try:
            names = architectures(hf)
            known = next((n for n in names if n in ARCHITECTURES), None)
            if known is None:
                named = ", ".join(names) or f"none (model_type {hf.get('model_type', 'missing')!r})"
                supported = ", ".join(ARCHITECTURES)
                raise ValueError(f"unsupported architecture {named}; supported: {supported}")
            check_sizes(hf)
            config = ARCHITECTURES[known](known, hf)
            config = replace(config, mlp_blocks=tuple(hf.get(MLP_BLOCKS, ())))
            config.check()
            return config
        except KeyError as error:
            raise ModelError(f"{where}: key {error} is missing") from None
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ModelError(f"{where}: {error}") from None

    def check(self) -> None:
        """Raise ValueError where the sizes do not go together."""
        sizes = (self.vocab_size, self.hidden_size, self.ffn_size, self.num_blocks, self.head_dim)
        if min(*sizes, self.max_context, self.num_heads, self.num_kv_heads) < 1:
            raise ValueError("every size must be at least 1")
        if len(self.windows) != self.num_blocks:
            raise ValueError(f"{len(self.windows)} windows for {self.num_blocks} blocks")
        if min(x for x in (1, *self.windows) if x is not None) < 1:
            raise ValueError("a sliding_window of no tokens")
        if type(self.norm_eps) not in (int, float) or not 0 <= self.norm_eps < math.inf:
            raise ValueError(f"rms_norm_eps is {self.norm_eps!r}, not a number from 0 on")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} heads do not share {self.num_kv_heads} key/value heads evenly"
            )
        divisors = None if self.rope is None else self.rope.divisors
        if divisors is not None and len(divisors) != self.head_dim // 2:
            raise ValueError(f"{len(divisors)} rope divisors for heads of {self.head_dim}")
        known = {n for n in self.mlp_blocks if type(n) is int and 0 <= n < self.num_blocks}
        if len(known) < len(self.mlp_blocks):
            told = list(self.mlp_blocks)
            raise ValueError(f"{MLP_BLOCKS} {told} are not numbers of {self.num_blocks} blocks")

    def spec(self, name: str, compute: str = DEFAULT, stored: Stored | None = None) -> ModelSpec:
        """The torch-free description that planners use. `compute` is the type of the checkpoint's
        numbers, and `stored` what it has instead of them, by layer (see LayerSpec)."""
        h, q, kv = (
            self.hidden_size,
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
        )
        up = (2 if self.gated else 1) * self.ffn_size
        norm = h * (2 if self.norm == "layer" else 1)
        project = () if self.embed_size == h else ((h, self.embed_size),)
        positions = 0 if self.rope else (self.max_context + self.position_offset) * h
        biases = (q + 2 * kv) * self.qkv_bias + h * self.out_bias + (up + h) * self.mlp_bias
        block = LayerSpec(
            LayerKind.BLOCK,
            ((q + 2 * kv, h), (h, q), (up, h), (h, self.ffn_size)),
            2 * norm + biases + 2 * self.head_dim * self.qk_norm,
            compute=compute,
            kv_width=2 * kv,
            kv_heads=self.num_kv_heads,
        )
        wide = MLP_WIDTH * h
        mlp = LayerSpec(LayerKind.MLP, ((wide, h), (h, wide)), wide + h, compute=compute)
        blocks = [
            mlp if number in self.mlp_blocks else replace(block, window=window)
            for number, window in enumerate(self.windows)
        ]
        table = (self.vocab_size, self.embed_size)
        embedding = LayerSpec(LayerKind.EMBEDDING, (table, *project), positions, compute=compute)
        out = tuple((b, a) for a, b in project)
        head = LayerSpec(LayerKind.HEAD, (table, *out), norm * self.final_norm, compute=compute)
        layers = [embedding, *blocks, head]
        if stored is not None:
            pairs = zip(layers, stored, strict=True)
            layers = [replace(layer, stored=parts) for layer, parts in pairs]
        return ModelSpec(
            name=name,
            layers=tuple(layers),
            hidden_size=h,
            vocab_size=self.vocab_size,
            max_context=self.max_context,
            tied=self.tied,
            computation=hashlib.sha256(repr(self).encode()).hexdigest()[:16],
        )


def is_packed(hf: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of a checkpoint of packed matrices (packed_checkpoint.py)."""
    described = hf.get("quantization_config")
    return isinstance(described, dict) and described.get("quant_method") == EDGEWISE


def _rope(hf: Mapping[str, Any]) -> Rope:
    # transformers 5 writes `rope_parameters`; earlier ones `rope_theta` and `rope_scaling`.
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", hf.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if hf.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("rotary positions on part of a head are not supported")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, linear_factor=float(rope["factor"]))
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (rope[k] for k in keys)
        return Rope(theta, llama3=(float(factor), float(low), float(high), int(original)))
    if kind == "divisors":
        return Rope(theta, divisors=tuple(map(float, rope["divisors"])))
    raise ValueError(f"rope scaling '{kind}' is not supported; supported: default, linear, llama3")


def _rotary(
    architecture: str, hf: Mapping[str, Any], *, qkv: bool, out: bool, qk_norm: bool, window: bool
) -> DecoderConfig:
    if (activation := hf.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"activation '{activation}' is not supported with gated MLPs")
    hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
    return DecoderConfig(
        architecture=architecture,
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        ffn_size=hf["intermediate_size"],
        num_blocks=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hidden // heads,
        max_context=hf["max_position_embeddings"],
        norm="rms",
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        activation="silu",
        gated=True,
        rope=_rope(hf),
        windows=block_windows(hf) if window else (None,) * hf["num_hidden_layers"],
        tied=hf.get("tie_word_embeddings", False),
        embed_size=hidden,
        names="llama",
        qkv_bias=qkv,
        out_bias=out,
        mlp_bias=hf.get("mlp_bias", False),
        qk_norm=qk_norm,
    )


def _llama(architecture: str, hf: Mapping[str, Any]) -> DecoderConfig:
    bias = hf.get("attention_bias", False)
    return _rotary(architecture, hf, qkv=bias, out=bias, qk_norm=False, window=False)


# Where a configuration lacks a key, transformers' default for the family holds.
_QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}


def _mistral(architecture: str, hf: Mapping[str, Any]) -> DecoderConfig:
    hf = {"sliding_window": 4096, **hf}
    return _rotary(architecture, hf, qkv=False, out=False, qk_norm=False, window=True)


def _qwen2(architecture: str, hf: Mapping[str, Any]) -> DecoderConfig:
    hf = {**_QWEN, **hf}
    return _rotary(architecture, hf, qkv=True, out=False, qk_norm=False, window=True)


def _qwen3(architecture: str, hf: Mapping[str, Any]) -> DecoderConfig:
    bias = hf.get("attention_bias", False)
    hf = {**_QWEN, "head_dim": 128, **hf}
    return _rotary(architecture, hf, qkv=bias, out=bias, qk_norm=True, window=True)


def _opt(architecture: str, hf: Mapping[str, Any]) -> DecoderConfig:
    hidden, heads, blocks = hf["hidden_size"], hf["num_attention_heads"], hf["num_hidden_layers"]
    bias, norm_first = hf.get("enable_bias", True), hf.get("do_layer_norm_before", True)
    if not hf.get("layer_norm_elementwise_affine", True):
        raise ValueError("layer norms without weights are not supported")
    activation = hf.get("activation_function", "relu")
    if activation not in ("relu", "gelu"):
        raise ValueError(f"activation '{activation}' is not supported; supported: relu, gelu")
    return DecoderConfig(
        architecture=architecture,
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        ffn_size=hf["ffn_dim"],
        num_blocks=blocks,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_context=hf["max_position_embeddings"],
        norm="layer",
        norm_eps=1e-5,
        activation=activation,
        gated=False,
        rope=None,
        windows=(None,) * blocks,
        tied=hf.get("tie_word_embeddings", True),
        embed_size=hf.get("word_embed_proj_dim") or hidden,
        names="opt",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        position_offset=2,
        norm_first=norm_first,
        final_norm=norm_first and not hf.get("_remove_final_layer_norm", False),
    )


ARCHITECTURES: dict[str, Callable[[str, Mapping[str, Any]], DecoderConfig]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "OPTForCausalLM": _opt,
}
