"""Which block keeps how many bits, and loses which share of its weights: LUC, layer-wise unified
compression of Edge-LLM (arXiv 2406.15758, equations 1 and 2), and what the paper compares it with.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.errors import InputError, SchemeError
from edgewise.quantization.rounding.sparsegpt import SEMI_STRUCTURED, Sparsity
from edgewise.schemes import BITS, SPARSE_BITS, Scheme, get_scheme

GROUP = 32  # of the schemes: symmetric ones, in which zero is a code


@dataclass(frozen=True, slots=True)
class Compression:
    """Of every block the bits of a code, and the share of weights that become zero."""

    bits: tuple[int, ...]
    sparsities: tuple[float, ...]

    @property
    def average_bits(self) -> float:
        return sum(self.bits) / len(self.bits)

    @property
    def average_sparsity(self) -> float:
        return sum(self.sparsities) / len(self.sparsities)


def pruned_scheme(bits: int) -> Scheme:
    """The scheme of so many bits in which a pruned weight is exactly zero. Raises SchemeError."""
    if bits not in BITS:
        known = ", ".join(map(str, BITS))
        raise SchemeError(f"no scheme has codes of {bits} bits; there are: {known}")
    return get_scheme(f"q{bits}g{GROUP}d")


def compressed_scheme(bits: int, sparsity: Sparsity) -> Scheme:
    """What a matrix of so many bits and zeros is stored in: where they are two of every four, only
    the others. Raises SchemeError."""
    scheme = pruned_scheme(bits)
    sparse = sparsity == SEMI_STRUCTURED and bits in SPARSE_BITS
    return get_scheme(f"{scheme.name}s") if sparse else scheme


def check_sparsity(sparsity: float) -> None:
    """Raise InputError for a share that cannot be pruned."""
    if not 0 <= sparsity < 1:  # nor NaN
        raise InputError(
            f"sparsity {sparsity:g}: give the share of weights that become zero, from 0 to below 1"
        )


def uniform_compression(blocks: int, bits: int, sparsity: float) -> Compression:
    """All blocks alike. Raises SchemeError, InputError."""
    pruned_scheme(bits)
    check_sparsity(sparsity)
    return Compression((bits,) * blocks, (sparsity,) * blocks)


def luc_compression(
    bit_errors: Sequence[float], sparsity_errors: Sequence[float], bits: int, sparsity: float
) -> Compression:
    """What LUC chooses by the errors of blocks' outputs, with each block alone in few bits or
    pruned. Raises SchemeError, InputError."""
    check_sparsity(sparsity)
    chosen = luc_bits(bit_errors, bits)
    for number in set(chosen):
        pruned_scheme(number)
    return Compression(chosen, luc_sparsities(sparsity_errors, sparsity))


def luc_bits(errors: Sequence[float], bits: int) -> tuple[int, ...]:
    """b_j = B + [s_j >= mean s] (equation 1)."""
    mean = sum(errors) / len(errors)
    return tuple(bits + (error >= mean) for error in errors)


def luc_sparsities(errors: Sequence[float], sparsity: float) -> tuple[float, ...]:
    """p_j = P L (1 - s'_j) / sum (1 - s'), s' scaled to [0, 1]: by the sign of the authors' code;
    equation 2 as it is printed prunes most what feels it most. No share is above 1: what those that
    would be do not take, the others do in proportion, so that the mean stays P."""
    low, high = min(errors), max(errors)
    width = high - low or 1.0
    weights = [1.0 - (error - low) / width for error in errors]
    shares, full = [0.0] * len(errors), set[int]()
    while True:
        rest = [j for j in range(len(errors)) if j not in full]
        total, left = sum(weights[j] for j in rest), sparsity * len(errors) - len(full)
        for j in rest:
            shares[j] = left * weights[j] / total if total else left / len(rest)
        beyond = {j for j in rest if shares[j] > 1}
        if not beyond:
            return tuple(shares)
        full |= beyond
        for j in beyond:
            shares[j] = 1.0


def shuffled_compression(chosen: Compression, seed: int) -> Compression:
    """The same bits and the same shares, each at blocks drawn by lot."""
    generator = random.Random(seed)
    bits, sparsities = list(chosen.bits), list(chosen.sparsities)
    generator.shuffle(bits)
    generator.shuffle(sparsities)
    return Compression(tuple(bits), tuple(sparsities))
