"""Tiny GGUF files of Hugging Face models, written by the `gguf` library's own writer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type

from edgewise.models.gguf.names import gguf_name

Choose = Callable[[str, np.ndarray], Type]

ARCHITECTURES = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}


def floats(name: str, weights: np.ndarray) -> Type:
    return Type.F32


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows (LlamaModel.permute in convert_hf_to_gguf.py)."""
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    choose: Choose = floats,
    changes: Mapping[str, Any] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """`choose` says in what type a tensor is stored; `changes` replaces keys (None: left out)."""
    config = model.config
    name = ARCHITECTURES[type(model).__name__.removesuffix("ForCausalLM")]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys: dict[str, Any] = {
        "general.architecture": name,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": head_dim,
        f"{name}.attention.value_length": head_dim,
        f"{name}.rope.dimension_count": head_dim,
        f"{name}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        **(changes or {}),
    }
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for key, setting in keys.items():
        if isinstance(setting, str):
            writer.add_string(key, setting)
        elif isinstance(setting, float):
            writer.add_float32(key, setting)
        elif setting is not None:
            writer.add_uint32(key, setting)
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for tensor, parameter in model.state_dict().items():
        if tensor == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weights = parameter.float().numpy()
        if name == "llama" and (which := tensor.rpartition("_proj")[0][-1:]) in heads:
            weights = permuted(weights, heads[which])
        kind = choose(tensor, weights)
        raw = gguf.quants.quantize(np.ascontiguousarray(weights), kind)
        writer.add_tensor(gguf_name(tensor), raw, raw_dtype=kind)
    for tensor, weights in (extra or {}).items():
        writer.add_tensor(tensor, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small_model(kind: str = "Llama", **changes: Any) -> transformers.PreTrainedModel:
    """A random model whose rows are made of whole blocks of 32."""
    sizes = {
        "vocab_size": 70,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()
