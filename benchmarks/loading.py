"""Claim: a shard is quantized while it is read: loading never takes more memory than the packed
shard and one layer at full precision.

A Llama-shaped checkpoint of 1.1 billion random weights is written to a temporary folder, in several
files, and loaded by a process of its own. Memory is that process's anonymous memory (RssAnon):
pages of the checkpoint's files that the system happens to keep mapped do not count.
`python benchmarks/loading.py [scheme]`.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from claims import finish
from safetensors.torch import save_file

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.schemes import get_scheme

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32_000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def write_checkpoint(folder: Path) -> int:
    """One file per layer, bf16; returns the number of weights."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    generator, where, count = torch.Generator().manual_seed(0), dict[str, str](), 0
    for layer in range(-1, CONFIG["num_hidden_layers"]):
        tensors = {
            name: torch.empty(shape).normal_(0, 0.02, generator=generator).bfloat16()
            for name, shape in shapes(layer).items()
        }
        file = f"part-{layer + 1:02}.safetensors"
        save_file(tensors, folder / file)
        where |= dict.fromkeys(tensors, file)
        count += sum(x.numel() for x in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return count


def shapes(layer: int) -> dict[str, tuple[int, ...]]:
    hidden, ffn, kv = 2048, 5632, 256
    if layer < 0:
        table = (CONFIG["vocab_size"], hidden)
        return {"model.embed_tokens.weight": table, "lm_head.weight": table,
                "model.norm.weight": (hidden,)}  # fmt: skip
    at = f"model.layers.{layer}."
    return {
        f"{at}self_attn.q_proj.weight": (hidden, hidden),
        f"{at}self_attn.k_proj.weight": (kv, hidden),
        f"{at}self_attn.v_proj.weight": (kv, hidden),
        f"{at}self_attn.o_proj.weight": (hidden, hidden),
        f"{at}mlp.gate_proj.weight": (ffn, hidden),
        f"{at}mlp.up_proj.weight": (ffn, hidden),
        f"{at}mlp.down_proj.weight": (hidden, ffn),
        f"{at}input_layernorm.weight": (hidden,),
        f"{at}post_attention_layernorm.weight": (hidden,),
    }


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def load(folder: str, scheme: str) -> None:
    """In a process of its own: load, watch, print."""
    peak, running = [anonymous_bytes()], [True]
    before = peak[0]

    def watch() -> None:
        while running[0]:
            peak[0] = max(peak[0], anonymous_bytes())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    shard = load_shard(folder, schemes=scheme, context=16)
    seconds = time.perf_counter() - began
    running[0] = False
    thread.join()
    figures = {"weight_bytes": shard.weight_bytes, "seconds": seconds, "cache": shard.cache.bytes}
    print(json.dumps({**figures, "peak": peak[0] - before, "after": anonymous_bytes() - before}))


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "load":
        load(sys.argv[2], sys.argv[3])
        return
    scheme = sys.argv[1] if len(sys.argv) > 1 else "q4g64"
    with tempfile.TemporaryDirectory(prefix="edgewise-loading-") as folder:
        count = write_checkpoint(Path(folder))
        command = [sys.executable, __file__, "load", folder, scheme]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        spec = open_checkpoint(folder).spec
    figures = json.loads(out)
    largest = max(layer.weight_bytes(get_scheme("fp32")) for layer in spec.layers)
    packed = sum(layer.weight_bytes(get_scheme(scheme)) for layer in spec.layers)
    bound = packed + largest
    print(f"{count / 1e9:.2f} billion weights in {scheme}: {figures['weight_bytes'] / 1e6:.0f} MB "
          f"(formula {packed / 1e6:.0f} MB), {figures['seconds']:.1f} s")  # fmt: skip
    print(f"peak {figures['peak'] / 1e6:.0f} MB, bound {bound / 1e6:.0f} MB (packed and one layer "
          f"at full precision, {largest / 1e6:.0f} MB)")  # fmt: skip
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    failed = [f"peak of {figures['peak'] / 1e6:.0f} MB"] if figures["peak"] > bound else []
    finish("loading", {"machine": machine, **versions, "scheme": scheme, "weights": count,
                       "bound": bound, **figures}, failed)  # fmt: skip


if __name__ == "__main__":
    main()
