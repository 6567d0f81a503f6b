"""A checkpoint made of another one's blocks, in Hugging Face's layout whatever it was read from: it
loads like any other, here and in transformers. With an MLP in a block's place, which no model of
transformers' has, the `model_type` is ours, so that it is refused there rather than misread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgewise.errors import ModelError
from edgewise.models.checkpoint import Checkpoint, split_parameter
from edgewise.models.config import EDGEWISE, MLP_BLOCKS, DecoderConfig, is_packed
from edgewise.models.decoder import Block, build_layer
from edgewise.models.gguf.checkpoint import GgufCheckpoint
from edgewise.models.hub import CONFIG
from edgewise.models.names import tensor_names
from edgewise.models.new_folder import new_folder, write_json
from edgewise.models.safetensors_checkpoint import HEAD, INDEX, SINGLE
from edgewise.models.tokenizer import copy_tokenizer
from edgewise.schemes import get_scheme
from edgewise.specs import LayerKind
from edgewise.tensor_files import write_tensors

FILE_BYTES = 2**31  # of weights, after which another file begins
GGUF_TYPE = torch.bfloat16  # of what is read from blocks of few bits

OnLayer = Callable[[str], None]


def check_rewritable(checkpoint: Checkpoint) -> None:
    """Raise ModelError where a checkpoint of fewer blocks could not say what the model computes."""
    config = checkpoint.config
    if is_packed(checkpoint.hf_config):
        raise ModelError(
            f"{checkpoint.model}: its matrices are packed; drop blocks of the model that it was "
            "made of, then compress what that makes"
        )
    if len(kinds := set(config.windows)) > 1:
        told = ", ".join(sorted("all tokens" if x is None else f"{x} tokens" for x in kinds))
        raise ModelError(
            f"{checkpoint.model}: its blocks are not alike (they see {told}); blocks can only be "
            "dropped where all are"
        )
    if config.rope is not None and config.rope.divisors is not None:
        raise ModelError(
            f"{checkpoint.model}: states its rotary factors one by one, which no config.json of "
            "transformers can; give the model's original checkpoint, a folder or a hub id"
        )


def write_checkpoint(
    source: Checkpoint,
    blocks: Sequence[int],
    changed: Mapping[int, Block],
    folder: Path,
    on_layer: OnLayer = lambda layer: None,
) -> None:
    """Write the model that consists of `blocks` of `source`, by number and in this order, each with
    its own weights or with those of `changed`, between the same embedding and head. Numbers keep
    the types that a safetensors checkpoint has them in; of a GGUF file they become bf16. The folder
    appears whole or not at all. Raises InputError, ModelError, DiskError."""
    check_rewritable(source)
    with new_folder(folder) as partial:
        config = rewritten_config(source, [_kind(source, block, changed) for block in blocks])
        write_json(partial / CONFIG, config)
        _write_weights(_tensors(source, blocks, changed, on_layer), partial)
        copy_tokenizer(source.model, partial)


def _kind(source: Checkpoint, block: int, changed: Mapping[int, Block]) -> LayerKind:
    return changed[block].kind if block in changed else source.spec.layers[block + 1].kind


def rewritten_config(source: Checkpoint, kinds: Sequence[LayerKind]) -> dict[str, Any]:
    """What `config.json` says of blocks of these kinds. Raises ModelError where it would mean
    something else than the source's."""
    blocks, mlp_blocks = len(kinds), [n for n, kind in enumerate(kinds) if kind is LayerKind.MLP]
    config = dict(source.hf_config)
    config["num_hidden_layers"] = blocks
    config["tie_word_embeddings"] = source.config.tied
    if "layer_types" in config:  # all the same
        config["layer_types"] = list(config["layer_types"])[:1] * blocks
    config.pop(MLP_BLOCKS, None)
    if mlp_blocks:
        config |= {MLP_BLOCKS: mlp_blocks, "model_type": EDGEWISE}
    if isinstance(source, GgufCheckpoint):
        config["dtype"] = str(GGUF_TYPE).removeprefix("torch.")
    windows = DecoderConfig.from_dict(config, source.model).windows
    if windows != source.config.windows[:1] * blocks:
        raise ModelError(
            f"{source.model}: with {blocks} blocks, its config.json would say that they see other "
            "tokens; only models whose blocks are all alike can be shortened"
        )
    return config


def _tensors(
    source: Checkpoint, blocks: Sequence[int], changed: Mapping[int, Block], on_layer: OnLayer
) -> Iterator[tuple[str, Tensor]]:
    """By its new name, each tensor."""
    layers = [0, *(block + 1 for block in blocks), source.config.num_layers - 1]
    dtype = GGUF_TYPE if isinstance(source, GgufCheckpoint) else None
    for place, number in enumerate(layers):
        own = changed.get(number - 1)
        moved = _moved(source, number, place) if own is None else _new(source, number, place, own)
        for name, tensor in moved:
            yield name, tensor.to(dtype or tensor.dtype)
        on_layer(f"layer {place}")


def _moved(source: Checkpoint, number: int, place: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of layer `number`, by the names that they have in another place."""
    config = source.config
    with torch.device("meta"):
        layer = build_layer(config, number)
    for parameter in layer.state_dict():
        olds = tensor_names(config.names, layer.kind, parameter, number - 1)
        if config.tied and olds == (HEAD,):
            continue
        news = tensor_names(config.names, layer.kind, parameter, place - 1)
        for old, new in zip(olds, news, strict=True):
            yield new, source.read(old)


def _new(source: Checkpoint, number: int, place: int, block: Block) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a block in the place of layer `number`, in the parts and types in which that
    one's are stored; of one of another kind all in the type that the layer computes in."""
    config, spec = source.config, source.spec.layers[number]
    computed = getattr(torch, get_scheme(spec.compute).compute)
    for parameter, weights in block.state_dict().items():
        olds = tensor_names(config.names, block.kind, parameter, number - 1)
        news = tensor_names(config.names, block.kind, parameter, place - 1)
        parts = split_parameter(config, parameter, weights.detach())
        for old, new, part in zip(olds, news, parts, strict=True):
            yield new, part.to(source.read(old).dtype if block.kind is spec.kind else computed)


def _write_weights(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """One file, or several with an index."""
    places, total, held = dict[str, str](), 0, dict[str, Tensor]()

    def flush() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        write_tensors(folder / name, held, {"format": "pt"})
        places.update(dict.fromkeys(held, name))
        held.clear()

    for name, tensor in tensors:
        if held and sum(x.nbytes for x in held.values()) + tensor.nbytes > FILE_BYTES:
            flush()
        held[name] = tensor
        total += tensor.nbytes
    flush()
    if len(files := set(places.values())) == 1:
        (folder / files.pop()).rename(folder / SINGLE)
        return
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / INDEX, index)
