"""Adapters on a block's matrices, which multiply what a file keeps apart as one."""

from collections.abc import Collection, Iterator, Mapping

from edgewise.adapters.low_rank import Adapted, AdapterConfig, LowRank
from edgewise.errors import ModelError
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block

Part = tuple[str, int, int]  # name, first row, rows


def parts_of(config: DecoderConfig) -> Mapping[str, tuple[Part, ...]]:
    """By a block's matrix, the parts that a file keeps apart, one below the other."""
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    ffn = config.ffn_size
    ups = (("gate", 0, ffn), ("up", ffn, ffn)) if config.gated else (("up", 0, ffn),)
    return {
        "qkv": (("q", 0, query), ("k", query, key), ("v", query + key, key)),
        "out": (("o", 0, config.hidden_size),),
        "up": ups,
        "down": (("down", 0, config.hidden_size),),
    }


def adapted_parts(config: DecoderConfig, names: Collection[str]) -> dict[str, tuple[Part, ...]]:
    """By a block's matrix, those of its parts that are named; no matrix without."""
    chosen = {
        matrix: tuple(part for part in parts if part[0] in names)
        for matrix, parts in parts_of(config).items()
    }
    return {matrix: parts for matrix, parts in chosen.items() if parts}


def columns_of(config: DecoderConfig, matrix: str) -> int:
    """How many numbers a block's matrix is multiplied with."""
    wide = {"out": config.num_heads * config.head_dim, "down": config.ffn_size}
    return wide.get(matrix, config.hidden_size)


def check_adaptable(config: DecoderConfig) -> None:
    """Raise ModelError where adapters would not know what to adapt."""
    if config.mlp_blocks:
        raise ModelError(
            f"an MLP is in the place of block {config.mlp_blocks[0]}, for which there are no "
            "adapters: adapt a model without (`compress --replace block` makes shorter ones)"
        )


def check_tunable(config: DecoderConfig) -> None:
    """Raise ModelError where adapters, or exits of windows, could not be."""
    check_adaptable(config)
    if not config.final_norm or config.embed_size != config.hidden_size:
        raise ModelError(
            "this model's head is not a norm and a matrix: it can neither be tuned yet, nor have "
            "exits of windows: take another model"
        )


def attach(
    block: Block, config: DecoderConfig, number: int, adapter: AdapterConfig
) -> dict[str, LowRank]:
    """Put new adapters on block `number` (0 is the first); returns them by part. Raises
    ModelError."""
    added = low_ranks(config, number, adapter)
    for matrix, parts in parts_of(config).items():
        if chosen := {name: added[name] for name, _, _ in parts if name in added}:
            setattr(block, matrix, Adapted(getattr(block, matrix), parts, chosen))
    return added


def low_ranks(config: DecoderConfig, number: int, adapter: AdapterConfig) -> dict[str, LowRank]:
    """New adapters of block `number`, by part, whether its matrices are here or not. Raises
    ModelError."""
    check_adaptable(config)
    return {
        name: LowRank(adapter, f"{number}.{name}", rows, columns_of(config, matrix))
        for matrix, parts in parts_of(config).items()
        for name, _, rows in parts
        if name in adapter.matrices
    }


def adapted(block: Block) -> Iterator[tuple[str, Adapted]]:
    """A block's matrices that have adapters, by name."""
    for name, module in block.named_children():
        if isinstance(module, Adapted):
            yield name, module
