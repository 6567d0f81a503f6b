"""A small shape that the kernels run whole, with random weights of any schemes."""

from collections.abc import Sequence

import torch

from edgewise.models.blank import random_layer
from edgewise.models.config import DecoderConfig, Rope
from edgewise.models.shard import Shard
from edgewise.schemes import CacheType, get_scheme

CONFIG = DecoderConfig(
    architecture="LlamaForCausalLM", vocab_size=97, hidden_size=64, ffn_size=150, num_blocks=3,
    num_heads=4, num_kv_heads=2, head_dim=16, max_context=640, norm="rms", norm_eps=1e-5,
    activation="silu", gated=True, rope=Rope(theta=10000.0), windows=(None, 9, None), tied=False,
    embed_size=64, names="llama",
)  # fmt: skip
LAYERS = CONFIG.num_blocks + 2


def shard_of(
    schemes: str | Sequence[str],
    start: int = 0,
    end: int = LAYERS,
    *,
    slots: int = 8,
    context: int = 640,
    cache: CacheType = CacheType.FULL,
) -> Shard:
    """Layers [start, end), the same weights each time, in one scheme or one each."""
    names = [schemes] * LAYERS if isinstance(schemes, str) else list(schemes)
    layers = []
    for number in range(start, end):
        torch.manual_seed(number)
        layers.append(random_layer(CONFIG, number, get_scheme(names[number]), torch.device("cpu")))
    return Shard(CONFIG, start, layers, slots=slots, context=context, cache=cache)
