"""What learns to do what a span did; without torch, for the commands' help."""

from enum import StrEnum


class Replacement(StrEnum):
    """What takes the place of a span: one decoder block, which begins as the span's first, or an
    MLP without attention (models/decoder.py)."""

    BLOCK = "block"
    MLP = "mlp"


RATES = {Replacement.BLOCK: 5e-4, Replacement.MLP: 1e-3}
