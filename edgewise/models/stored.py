"""What a checkpoint has of every matrix of ours, for the scheme `stored`."""

from collections.abc import Callable

from edgewise.models.config import DecoderConfig, Stored
from edgewise.models.names import parameter_names
from edgewise.specs import LayerKind

# In the order of LayerSpec.matrices.
_MATRICES = {
    LayerKind.EMBEDDING: ("tokens",),
    LayerKind.BLOCK: ("qkv", "out", "up", "down"),
    LayerKind.HEAD: ("out",),
}


def stored_parts(config: DecoderConfig, part: Callable[[str], tuple[int, str]]) -> Stored:
    """By layer, by matrix: (rows, scheme) of its parts. `part` says that of a checkpoint's tensor.
    For models whose embedding is not projected."""
    kinds = [LayerKind.EMBEDDING, *[LayerKind.BLOCK] * config.num_blocks, LayerKind.HEAD]
    return tuple(
        tuple(
            tuple(map(part, parameter_names(config, kind, f"{matrix}.weight", number - 1)))
            for matrix in _MATRICES[kind]
        )
        for number, kind in enumerate(kinds)
    )
