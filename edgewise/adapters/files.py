"""Adapters as files: Hugging Face PEFT's layout, so that `peft` loads what is made here, and back.

    adapter_config.json         rank, scale, matrices
    adapter_model.safetensors   lora_A [r, columns] and lora_B [rows, r] of every matrix
    edgewise.safetensors        ours: which model it is for, its kind, and M where it is private

A private adapter is written as the LoRA adapter that it amounts to, lora_B = U M, and read again
from M: U and D are drawn once more.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from edgewise.adapters.low_rank import AdapterConfig, Kind, LowRank
from edgewise.adapters.matrices import check_adaptable, columns_of, parts_of
from edgewise.errors import InputError
from edgewise.models.config import DecoderConfig
from edgewise.models.finite import all_finite
from edgewise.models.names import NAMES
from edgewise.specs import LayerKind
from edgewise.tensor_files import read_tensors, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OURS = "edgewise.safetensors"
EXITS = "exits.safetensors"  # of windows: tuning/loading.py
PEFT_PREFIX = "base_model.model."
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MOST_BYTES = 4 * 2**30

# What of PEFT's changes what an adapter amounts to, and how it must be here.
USUAL = {"use_dora": False, "use_rslora": False, "fan_in_fan_out": False, "bias": "none",
         "alpha_pattern": {}, "rank_pattern": {}, "modules_to_save": None,
         "alora_invocation_tokens": None, "arrow_config": None, "kasa_config": None,
         "layer_replication": None, "use_bdlora": None, "use_qalora": False}  # fmt: skip
# Ways to begin that take what they begin with out of the model's own matrices.
CHANGES_MODEL = ("pissa", "olora", "corda", "loftq", "lora_ga")

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
    """Write adapters of a model called `base`; `digest` is of its layers' shapes. Raises
    OSError."""
    tensors, middles, targets = dict[str, Tensor](), dict[str, Tensor](), set[str]()
    for block, parts in enumerate(added):
        for part, low in parts.items():
            prefix = tensor_prefix(config, block, part)
            targets.add(prefix.rpartition(".")[2])
            up = low.up if low.middle is None else low.up @ low.middle
            tensors[f"{prefix}.lora_A.weight"] = low.down.detach()
            tensors[f"{prefix}.lora_B.weight"] = up.detach()
            if low.middle is not None:
                middles[f"{prefix}.middle"] = low.middle.detach()
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
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_tensors(folder / OURS, middles, ours)
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_adapter(
    folder: Path, config: DecoderConfig, digest: str
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """An adapter's configuration, and its tensors by "BLOCK.PART.down", ".up" and ".middle". Raises
    InputError where it is for a model of other layers, of wrong shapes, holds what is no number, or
    is a pickle. Models of equal layers are not told apart: they may take each other's."""
    check_adaptable(config)
    pickles = [x.name for x in sorted(folder.glob("*")) if x.suffix in PICKLES]
    if pickles and not (folder / WEIGHTS).exists():
        raise InputError(
            f"{folder}: {pickles[0]} is a pickle, which can run any code when it is read: convert "
            "it to safetensors where you trust it"
        )
    document, (ours, middles) = _document(folder / CONFIG), read_if_there(folder / OURS)
    if ours.get("digest") not in (None, digest):
        raise InputError(
            f"{folder}: an adapter for '{document.get('base_model_name_or_path')}', whose layers "
            "are others than this model's"
        )
    tensors = _read(folder / WEIGHTS)[1] | middles
    adapter = _config_of(document, ours, tensors, config, folder)
    return adapter, _checked(tensors, adapter, config, folder)


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


def read_if_there(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file that `peft` does not write. Raises InputError."""
    return _read(path) if path.exists() else ({}, {})


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: larger than {MOST_BYTES} bytes, refused")
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _config_of(
    document: Mapping[str, Any],
    ours: Mapping[str, str],
    names: Collection[str],
    config: DecoderConfig,
    folder: Path,
) -> AdapterConfig:
    """`names` are those of the tensors: what PEFT says of matrices may be any expression."""
    for switch, usual in USUAL.items():
        if document.get(switch, usual) not in (usual, None, {}, []):
            raise InputError(f"{folder}: {switch} = {document[switch]!r} is not supported")
    if (began := str(document.get("init_lora_weights")).lower()).startswith(CHANGES_MODEL):
        raise InputError(
            f"{folder}: '{began}' changed the model's own matrices, which are not here: let peft "
            "make it plain LoRA (save_pretrained's path_initial_model_for_weight_conversion; not "
            "of LoftQ), or train one that begins otherwise"
        )
    parts = [part for parts in parts_of(config).values() for part, _, _ in parts]
    ends = {tensor_prefix(config, 0, part).rpartition(".")[2]: part for part in parts}
    found = {name.split(".")[-3] for name in names if name.count(".") > 2}
    try:
        matrices = [x for x in ours.get("matrices", "").split(",") if x] or [
            part for end, part in ends.items() if end in found
        ]
        kind = Kind(ours.get("kind", Kind.LORA))
        return AdapterConfig(
            kind, int(document["r"]), float(document["lora_alpha"]), tuple(matrices),
            int(ours.get("seed", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder / CONFIG}: {type(error).__name__}: {error}") from None


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
    halves = {name.rpartition(".")[0] for name in checked if not name.endswith(".middle")}
    for name in sorted(halves):
        if not {f"{name}.down", f"{name}.up"} <= checked.keys():
            raise InputError(f"{folder}: of {name} there is only one of lora_A and lora_B")
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
