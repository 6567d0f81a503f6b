"""Bytes that a round of learning moves: the numbers themselves, without what frames them."""

from collections.abc import Iterable
from dataclasses import dataclass

BYTES_PER_UTILITY = 8


@dataclass(frozen=True, slots=True)
class RoundTraffic:
    """Of all clients together: `down_bytes` to them, `up_bytes` from them."""

    down_bytes: int
    up_bytes: int

    @property
    def both_bytes(self) -> int:
        return self.down_bytes + self.up_bytes


def lora_numbers(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Trained numbers of LoRA over matrices [rows, columns]: r (rows + columns) each."""
    return sum(rank * (rows + columns) for rows, columns in shapes)


def averaging_traffic(numbers: int, clients: int, bytes_per_number: int = 4) -> RoundTraffic:
    """Of FedAvg, FedProx, the exact average and every robust rule: all numbers to each client and
    back."""
    once = numbers * bytes_per_number * clients
    return RoundTraffic(once, once)


def fed_pso_traffic(numbers: int, clients: int, bytes_per_number: int = 4) -> RoundTraffic:
    """Of FedPSO: the common best to each client; a utility from each, and one client's numbers."""
    once = numbers * bytes_per_number
    return RoundTraffic(once * clients, once + BYTES_PER_UTILITY * clients)
