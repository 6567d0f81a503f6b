"""Which checkpoint tensors make up each of our parameters, per family, as data.

Our parameter <- the Hugging Face tensors whose rows, one below the other, it consists of. Fusing
(q, k, v) and (gate, up) at load time halves the number of matrix products per block.
"""

from collections.abc import Mapping

from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.specs import LayerKind

# A layer's, in the order of LayerSpec.matrices.
MATRICES = {
    LayerKind.EMBEDDING: ("tokens",),
    LayerKind.BLOCK: ("qkv", "out", "up", "down"),
    LayerKind.MLP: ("fc1", "fc2"),
    LayerKind.HEAD: ("out",),
}
Names = Mapping[LayerKind, Mapping[str, tuple[str, ...]]]

_SELF = "model.layers.{block}.self_attn."
_OPT = "model.decoder.layers.{block}."


def _mlp(block: str) -> Mapping[str, tuple[str, ...]]:
    """Of an MLP in a block's place: names of ours, as transformers knows no such thing."""
    return {name: (block + name,) for name in ("fc1", "fc2")}


NAMES: dict[str, Names] = {
    "llama": {
        LayerKind.EMBEDDING: {"tokens.weight": ("model.embed_tokens.weight",)},
        LayerKind.BLOCK: {
            "attention_norm": ("model.layers.{block}.input_layernorm",),
            "qkv": (_SELF + "q_proj", _SELF + "k_proj", _SELF + "v_proj"),
            "q_norm": (_SELF + "q_norm",),
            "k_norm": (_SELF + "k_norm",),
            "out": (_SELF + "o_proj",),
            "mlp_norm": ("model.layers.{block}.post_attention_layernorm",),
            "up": ("model.layers.{block}.mlp.gate_proj", "model.layers.{block}.mlp.up_proj"),
            "down": ("model.layers.{block}.mlp.down_proj",),
        },
        LayerKind.MLP: _mlp("model.layers.{block}."),
        LayerKind.HEAD: {"norm": ("model.norm",), "out": ("lm_head",)},
    },
    "opt": {
        LayerKind.EMBEDDING: {
            "tokens.weight": ("model.decoder.embed_tokens.weight",),
            "positions.weight": ("model.decoder.embed_positions.weight",),
            "project": ("model.decoder.project_in",),
        },
        LayerKind.BLOCK: {
            "attention_norm": (_OPT + "self_attn_layer_norm",),
            "qkv": (
                _OPT + "self_attn.q_proj",
                _OPT + "self_attn.k_proj",
                _OPT + "self_attn.v_proj",
            ),
            "out": (_OPT + "self_attn.out_proj",),
            "mlp_norm": (_OPT + "final_layer_norm",),
            "up": (_OPT + "fc1",),
            "down": (_OPT + "fc2",),
        },
        LayerKind.MLP: _mlp(_OPT),
        LayerKind.HEAD: {
            "norm": ("model.decoder.final_layer_norm",),
            "project": ("model.decoder.project_out",),
            "out": ("lm_head",),
        },
    },
}


def tensor_names(family: str, kind: LayerKind, parameter: str, block: int) -> tuple[str, ...]:
    """The checkpoint tensors of `parameter` ("qkv.weight") of block number `block`."""
    table = NAMES[family][kind]
    if parameter in table:
        return tuple(name.format(block=block) for name in table[parameter])
    module, _, suffix = parameter.rpartition(".")
    if module not in table:
        raise ModelError(f"family '{family}' has no tensor for parameter '{parameter}'")
    return tuple(f"{name.format(block=block)}.{suffix}" for name in table[module])


def parameter_names(
    config: DecoderConfig, kind: LayerKind, parameter: str, block: int
) -> tuple[str, ...]:
    """The same for one model: a tied head's matrix is the embedding's."""
    if kind is LayerKind.HEAD and parameter == "out.weight" and config.tied:
        return (table_name(config.names),)
    return tensor_names(config.names, kind, parameter, block)


def table_name(family: str) -> str:
    """The embedding matrix, which a tied head shares."""
    return NAMES[family][LayerKind.EMBEDDING]["tokens.weight"][0]
