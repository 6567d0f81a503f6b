"""Adapters as files: Hugging Face PEFT's layout, so that `peft` loads what is made here, and back.

    adapter_config.json         rank, scale, matrices
    adapter_model.safetensors   lora_A [r, columns] and lora_B [rows, r] of every matrix
    edgewise.safetensors        ours: which model it is for, its kind, and M where it is private

A private adapter is written as the LoRA adapter that it amounts to, lora_B = U M, and read again
from M: U and D are drawn once more.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgewise.adapters.low_rank import AdapterConfig, Kind, LowRank
from edgewise.adapters.matrices import columns_of, parts_of
from edgewise.errors import InputError
from edgewise.models.config import DecoderConfig
from edgewise.models.finite import all_finite
from edgewise.models.names import NAMES
from edgewise.specs import LayerKind

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OURS = "edgewise.safetensors"
PEFT_PREFIX = "base_model.model."
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MOST_BYTES = 4 * 2**30

Added = Sequence[Mapping[str, LowRank]]  # by block, by part


def tensor_prefix(config: DecoderConfig, block: int, part: str) -> str:
    """What PEFT calls a matrix of a block: its name in the model's own files."""
    table = NAMES[config.names][LayerKind.BLOCK]
    fused = {"q": 0, "k": 1, "v": 2}
    if part in fused:
        name = table["qkv"][fused[part]]
    elif part == "o":
        name = table["out"][0]
    elif part == "down":
        name = table["down"][0]
    else:
        name = table["up"][0 if part == "gate" or not config.gated else 1]
    return PEFT_PREFIX + name.format(block=block)


def save_adapter(folder: Path, added: Added, adapter: AdapterConfig, config: DecoderConfig,
                 base: str, digest: str) -> None:  # fmt: skip
    """Write adapters of a model called `base`, whose digest is told from others by."""
    tensors, middles, targets = dict[str, Tensor](), dict[str, Tensor](), set[str]()
    for block, parts in enumerate(added):
        for part, low in parts.items():
            prefix = tensor_prefix(config, block, part)
            targets.add(prefix.rpartition(".")[2])
            up = low.up if low.middle is None else low.up @ low.middle
            tensors[f"{prefix}.lora_A.weight"] = low.down.detach().contiguous()
            tensors[f"{prefix}.lora_B.weight"] = up.detach().contiguous()
            if low.middle is not None:
                middles[f"{prefix}.middle"] = low.middle.detach().contiguous()
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    ours = {"digest": digest, "kind": str(adapter.kind), "seed": str(adapter.seed),
            "matrices": ",".join(adapter.matrices)}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    safetensors.torch.save_file(middles, folder / OURS, ours)
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_adapter(
    folder: Path, config: DecoderConfig, digest: str
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """An adapter's configuration, and its tensors by "BLOCK.PART.down", ".up" and ".middle". Raises
    InputError where it is for another model, of wrong shapes, holds what is no number, or is a
    pickle."""
    pickles = [x.name for x in sorted(folder.glob("*")) if x.suffix in PICKLES]
    if pickles and not (folder / WEIGHTS).exists():
        raise InputError(
            f"{folder}: {pickles[0]} is a pickle, which can run any code when it is read: convert "
            "it to safetensors where you trust it"
        )
    document, ours = _document(folder / CONFIG), _ours(folder / OURS)
    if ours.get("digest") not in (None, digest):
        raise InputError(
            f"{folder}: an adapter for '{document.get('base_model_name_or_path')}', whose layers "
            "are others than this model's"
        )
    adapter = _config_of(document, ours, folder)
    return adapter, _checked(_tensors(folder), adapter, config, folder)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON") from None
    if not isinstance(document, dict) or document.get("peft_type") != "LORA":
        raise InputError(f"{path}: not the configuration of a LoRA adapter")
    return document


def _ours(path: Path) -> Mapping[str, str]:
    """What only we write; nothing where `peft` saved the adapter."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _config_of(document: Mapping[str, Any], ours: Mapping[str, str], folder: Path) -> AdapterConfig:
    names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "out_proj": "o",
             "gate_proj": "gate", "up_proj": "up", "fc1": "up", "down_proj": "down",
             "fc2": "down"}  # fmt: skip
    for switch in ("use_dora", "use_rslora", "fan_in_fan_out"):
        if document.get(switch):
            raise InputError(f"{folder}: {switch} is not supported")
    try:
        matrices = [x for x in ours.get("matrices", "").split(",") if x] or [
            names[x] for x in document["target_modules"]
        ]
        kind = Kind(ours.get("kind", Kind.LORA))
        return AdapterConfig(
            kind, int(document["r"]), float(document["lora_alpha"]), tuple(matrices),
            int(ours.get("seed", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / CONFIG}: {type(error).__name__}: {error}") from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    tensors = dict[str, Tensor]()
    for name in (WEIGHTS, OURS):
        path = folder / name
        if name != WEIGHTS and not path.exists():
            continue
        try:
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path}: larger than {MOST_BYTES} bytes, refused")
            tensors |= safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
    return tensors


def _checked(
    tensors: Mapping[str, Tensor], adapter: AdapterConfig, config: DecoderConfig, folder: Path
) -> dict[str, Tensor]:
    rank, checked, known = adapter.rank, dict[str, Tensor](), set[str]()
    for block in range(config.num_blocks):
        for matrix, parts in parts_of(config).items():
            for part, _, rows in parts:
                prefix = tensor_prefix(config, block, part)
                shapes = {
                    "lora_A.weight": ("down", (rank, columns_of(config, matrix))),
                    "lora_B.weight": ("up", (rows, rank)),
                    "middle": ("middle", (rank, rank)),
                }
                for suffix, (ours, shape) in shapes.items():
                    name = f"{prefix}.{suffix}"
                    if (tensor := tensors.get(name)) is None:
                        continue
                    known.add(name)
                    if tuple(tensor.shape) != shape:
                        raise InputError(
                            f"{folder}: {name} is {list(tensor.shape)}, but this model needs "
                            f"{list(shape)}: it is for another one"
                        )
                    if not all_finite(tensor):
                        raise InputError(f"{folder}: {name} holds what is no finite number")
                    checked[f"{block}.{part}.{ours}"] = tensor.float()
    if strange := sorted(tensors.keys() - known):
        raise InputError(f"{folder}: {strange[0]} is no matrix of this model's")
    return checked


@torch.no_grad()
def fill(added: Added, tensors: Mapping[str, Tensor]) -> None:
    """Let adapters be what was read; those of which nothing was read stay as they are."""
    for block, parts in enumerate(added):
        for part, low in parts.items():
            prefix = f"{block}.{part}"
            if low.middle is not None:
                if f"{prefix}.middle" in tensors:
                    low.middle.copy_(tensors[f"{prefix}.middle"])
            elif f"{prefix}.up" in tensors:
                low.down.copy_(tensors[f"{prefix}.down"])
                low.up.copy_(tensors[f"{prefix}.up"])
