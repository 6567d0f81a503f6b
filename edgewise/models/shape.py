"""What a device that has no copy of a model must know of it, as a JSON text: the configuration, and
what its checkpoint consists of. Enough to time layers of its shape, and to load them from files."""

from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgewise.errors import ModelError
from edgewise.models.checkpoint import Checkpoint
from edgewise.models.config import ARCHITECTURES, DecoderConfig, Stored
from edgewise.models.names import NAMES
from edgewise.schemes import SCHEMES, Family
from edgewise.specs import ModelSpec

NORMS, ACTIVATIONS = ("rms", "layer"), ("silu", "relu", "gelu")
MOST_TEXT = 2**20  # characters


@dataclass(frozen=True)
class ModelShape:
    """`compute` is the type of the checkpoint's numbers; `stored` what it has instead of them, by
    layer and matrix (LayerSpec), None where it has nothing else."""

    name: str
    config: DecoderConfig
    compute: str
    stored: tuple[tuple[tuple[tuple[int, str], ...], ...], ...] | None = None

    @staticmethod
    def of(checkpoint: Checkpoint) -> "ModelShape":
        """Raises ModelError."""
        spec = checkpoint.spec
        stored = tuple(layer.stored for layer in spec.layers)
        compute = spec.layers[0].compute
        return ModelShape(spec.name, checkpoint.config, compute, stored if any(stored) else None)

    @cached_property
    def spec(self) -> ModelSpec:
        """The same as the checkpoint's."""
        return self.config.spec(self.name, self.compute, self.stored)

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str) -> "ModelShape":
        """From the text of another device. Raises ModelError where it isn't one."""
        if len(text) > MOST_TEXT:
            raise ModelError(f"a model's shape: a text of {len(text)} characters, refused")
        try:
            shape = msgspec.json.decode(text, type=ModelShape)
            # Keys that there are not, and those left out that have a default.
            if msgspec.json.decode(text) != msgspec.json.decode(shape.to_json()):
                raise ValueError("keys are missing, or unknown")
            shape._check()
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise ModelError(f"a model's shape: {error}") from None
        return shape

    def _check(self) -> None:
        """Raise ValueError where layers could not be built."""
        config = self.config
        config.check()
        _one_of("architecture", config.architecture, ARCHITECTURES)
        _one_of("norm", config.norm, NORMS)
        _one_of("activation", config.activation, ACTIVATIONS)
        _one_of("names", config.names, NAMES)
        _one_of("compute", self.compute, _schemes(Family.FLOAT))
        if config.embed_size < 1 or config.position_offset < 0:
            raise ValueError("embed_size or position_offset cannot be")
        if config.rope and not (config.rope.theta > 0 and config.rope.linear_factor > 0):
            raise ValueError("a rope's theta or linear_factor cannot be")
        if self.stored is not None:
            self._check_stored(self.stored)

    def _check_stored(self, stored: Stored) -> None:
        known = _schemes(Family.FLOAT, Family.GROUPED)
        for layer, matrices in zip(self.config.spec("").layers, stored, strict=True):
            for (rows, _), parts in zip(layer.matrices, matrices, strict=True):
                for count, scheme in parts:
                    _one_of("stored", scheme, known)
                    if count < 1:
                        raise ValueError(f"a part of {count} rows")
                if sum(count for count, _ in parts) != rows:
                    raise ValueError(f"parts {parts} of a matrix of {rows} rows")


def _schemes(*families: Family) -> list[str]:
    return [name for name, scheme in SCHEMES.items() if scheme.family in families]


def _one_of(what: str, name: str, known: object) -> None:
    if name not in known:  # type: ignore[operator]
        raise ValueError(f"{what} '{name}' is not known")
