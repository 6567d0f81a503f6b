"""Hidden states as they cross links. Every token's are rounded on their own, so what becomes of
them does not depend on the company they travel in."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from edgewise.schemes import WIRE_GROUP, Wire

LARGEST = 127  # code of 8 bits


@torch.inference_mode()
def packed(states: Tensor, wire: Wire) -> Tensor:
    """States float32 [tokens, H] as a message has them: float32, bfloat16, or uint8: of each token
    H signed codes, then what those of each group are multiples of, as bfloat16."""
    if wire is Wire.FP32:
        return states
    if wire is Wire.BF16:
        return states.to(torch.bfloat16)
    groups = _groups(states)
    scales = (groups.abs().amax(-1, keepdim=True) / LARGEST).to(torch.bfloat16)
    codes = groups / scales.float().clamp(min=torch.finfo().tiny)
    codes = codes.round().clamp(-LARGEST, LARGEST).to(torch.int8).flatten(-2)
    parts = codes[:, : states.shape[-1]], scales.flatten(-2)
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], -1)


@torch.inference_mode()
def unpacked(sent: Tensor, wire: Wire, hidden_size: int) -> Tensor:
    """What `packed` made, as float32 [tokens, H]. Raises RuntimeError for what it cannot have
    made."""
    if wire is not Wire.INT8:
        return sent.float()
    codes, sides = sent.tensor_split([hidden_size], -1)
    aligned = sides.clone(memory_format=torch.contiguous_format)
    scales = aligned.view(torch.bfloat16).float().unsqueeze(-1)
    states = _groups(codes.view(torch.int8)) * scales
    return states.flatten(-2)[:, :hidden_size]


def through(states: Tensor, wire: Wire) -> Tensor:
    """States [tokens, H] as they are behind a link."""
    return unpacked(packed(states, wire), wire, states.shape[-1])


def _groups(states: Tensor) -> Tensor:
    """[tokens, H] as [tokens, groups, WIRE_GROUP], filled up with zeros."""
    return pad(states, (0, -states.shape[-1] % WIRE_GROUP)).unflatten(-1, (-1, WIRE_GROUP))
