"""What layers most models have: all but those that took the place of some."""

from edgewise.specs import LayerKind

DECODER_KINDS = tuple(kind for kind in LayerKind if kind is not LayerKind.MLP)
