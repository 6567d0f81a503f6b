"""PrivateLoRA's estimate of throughput (arXiv 2311.14030), as far as it could be put together.

    tokens/s = 1 / (1 / TPS_decoder + 1 / TPS_adapters + 1 / TPS_head + t)

t is the communication of one token: of each of L layers, 3 r values (for q, k and v) of 16 bits to
the device and as many back. What of it counts, and the other terms' sum, were chosen by the
figures: docs/studies/private-lora.md.
"""

from dataclasses import dataclass

PROJECTIONS = 3  # q, k and v
BITS = 16  # of a number on the network; in memory, too
UP, DOWN = 60e6, 100e6  # bits per second: the believed 5G link
VOCABULARY = 32_000
DEVICE_BANDWIDTH = 42.7e9  # bytes per second, of an iPhone 13 Pro Max


@dataclass(frozen=True, slots=True)
class Llama:
    """The shape of one of the models: blocks and the width of a hidden state."""

    name: str
    blocks: int
    width: int

    def values(self, rank: int) -> int:
        """Numbers of a token that go one way, through all layers."""
        return PROJECTIONS * self.blocks * rank

    def decode_seconds(self, rank: int) -> float:
        """Communication of a token that is decoded: the way up alone, which the figure fits."""
        return self.values(rank) * BITS / UP

    def prefill_seconds(self, rank: int) -> float:
        """Communication of a prompt's token: both ways."""
        return self.values(rank) * BITS * (1 / UP + 1 / DOWN)

    def trainable(self, rank: int) -> int:
        """Parameters of all M [rank, rank]."""
        return PROJECTIONS * self.blocks * rank**2

    @property
    def head_bytes(self) -> int:
        """The matrix of the vocabulary, which embedding and head are counted once for."""
        return VOCABULARY * self.width * BITS // 8

    def device_bytes(self, rank: int) -> int:
        """What the device holds: the vocabulary's matrix and all M."""
        return self.head_bytes + self.trainable(rank) * BITS // 8

    def device_flops(self, rank: int) -> int:
        """Operations of a token on the device: two for each of its numbers."""
        return 2 * self.device_bytes(rank) * 8 // BITS

    def head_seconds(self, batch: float) -> float:
        """A token's share of reading the head, which a batch reads once."""
        return self.head_bytes / DEVICE_BANDWIDTH / batch


def decode_rate(shape: Llama, rank: int, batch: float, rest: float, latency: float = 0.0) -> float:
    """Tokens per second of each request of a batch; `rest` is what neither the network nor reading
    the head takes, in seconds. Every layer waits for the device's answer, so a `latency`, one way,
    is waited for twice per layer: the paper's estimate has none."""
    waits = 2 * shape.blocks * latency
    return 1 / (rest + shape.head_seconds(batch) + shape.decode_seconds(rank) + waits)


def prefill_rate(shape: Llama, rank: int, rest: float) -> float:
    """Tokens of prompts per second."""
    return 1 / (rest + shape.prefill_seconds(rank))


def rank_of(prefill: float, shape: Llama, rest: float) -> float:
    """The rank at which the curve of prompts passes so many tokens per second."""
    return (1 / prefill - rest) / shape.prefill_seconds(1)
