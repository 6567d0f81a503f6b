"""Whole files for llama.cpp: written from a Hugging Face folder, quantized and run by its library.

The functions that llama.cpp's library serves run in its own environment:
`PYTHON llama_files.py WHAT ARGUMENTS` prints one line of JSON.
"""

import ctypes
import importlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Our names of a block's tensors in Hugging Face folders, and llama.cpp's.
BLOCK_TENSORS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OTHER_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor of a Hugging Face folder."""
    if name in OTHER_TENSORS:
        return OTHER_TENSORS[name]
    _, _, block, inner = name.removesuffix(".weight").split(".", 3)
    return f"blk.{block}.{BLOCK_TENSORS[inner]}.weight"


def write_f32(folder: Path, file: Path) -> None:
    """A Llama-like Hugging Face folder as a GGUF file in F32. Raises ValueError for others."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        raise ValueError(f"{folder}: a '{config['model_type']}'; only 'llama' is written as GGUF")
    writer = gguf.GGUFWriter(file, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, folder, config)
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _neighbours(values, kv_heads if "k_proj" in name else heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp, which rotates neighbours (2i, 2i + 1), not (i, i + D/2)."""
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Vocabulary and merges, so that the file is what a user has; both sides are given ids."""
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"] | {x["content"]: x["id"] for x in tokenizer["added_tokens"]}
    control = {x["id"] for x in tokenizer["added_tokens"] if x["special"]}
    tokens = {number: token for token, number in ids.items()}
    count = config["vocab_size"]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(count)])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if i in control else kinds.NORMAL for i in range(count)])
    writer.add_token_merges([x if isinstance(x, str) else " ".join(x) for x in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def contents(file: Path) -> tuple[int, dict[str, int]]:
    """Bytes of a GGUF file's tensors, and how many matrices it holds of each type."""
    import gguf

    tensors = gguf.GGUFReader(file).tensors
    kinds = Counter(x.tensor_type.name for x in tensors if len(x.shape) > 1)
    return sum(int(x.n_bytes) for x in tensors), dict(kinds)


def call(peer: str, *arguments: object) -> Any:
    """Run one of the functions below in the peer's environment."""
    command = [peer, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer_api() -> Any:
    """llama-cpp-python's module; this folder has a file of that name."""
    folder = str(Path(__file__).parent)
    sys.path[:] = [x for x in sys.path if x != folder]
    return importlib.import_module("llama_cpp")


def describe() -> dict[str, str]:
    api = peer_api()
    return {
        "llama-cpp-python": api.__version__,
        "features": api.llama_print_system_info().decode().strip(),
        "library": str(Path(api.__file__).parent / "lib"),
    }


def quantize(source: str, target: str, kind: str, threads: str, importance: str = "") -> float:
    """Seconds of llama_model_quantize; `importance`: an .npz of vectors by llama.cpp's names."""
    api = peer_api()
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = int(threads)
    vectors = (
        {k: v.astype(np.float32) for k, v in np.load(importance).items()} if importance else {}
    )
    # The list ends with an entry without a name.
    entries = (api.llama_model_imatrix_data * (len(vectors) + 1))()
    for entry, (name, vector) in zip(entries, vectors.items(), strict=False):
        entry.name, entry.size = name.encode(), len(vector)
        entry.data = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if vectors:
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(api.llama_model_imatrix_data))
    began = time.perf_counter()
    if api.llama_model_quantize(source.encode(), target.encode(), params):
        raise RuntimeError(f"llama_model_quantize does not make {kind} of {source}")
    return time.perf_counter() - began


def logits(file: str, ids: str, out: str, threads: str, exact: str = "") -> float:
    """Write the logits, float32, of windows ids [N, T] to a file, window by window; seconds.
    With `exact` the cache is float32 too, where llama.cpp's own choice is float16."""
    api, windows = peer_api(), np.load(ids)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(file.encode(), api.llama_model_default_params())
    vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    params, length = api.llama_context_default_params(), windows.shape[1]
    params.n_ctx = params.n_batch = params.n_ubatch = length
    params.n_threads = params.n_threads_batch = int(threads)
    if exact:
        params.type_k = params.type_v = api.GGML_TYPE_F32
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = api.llama_init_from_model(model, params)
    batch = api.llama_batch_init(length, 0, 1)
    began = time.perf_counter()
    with open(out, "wb") as target:
        for window in windows:
            api.llama_memory_clear(api.llama_get_memory(context), True)
            batch.n_tokens = length
            for i, token in enumerate(window):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, True
            if api.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode does not run {file}")
            first = api.llama_get_logits(context)
            np.ctypeslib.as_array(first, shape=(length, vocabulary)).tofile(target)
    return time.perf_counter() - began


SERVED: dict[str, Callable[..., Any]] = {
    "describe": describe, "quantize": quantize, "logits": logits,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(SERVED[sys.argv[1]](*sys.argv[2:])))
