"""Messages as frames, and back: the length of a header (4 bytes), the header in MessagePack, and
the tensor's bytes, if any, as they lie in memory; all little-endian. No pickle.

A frame that has to be encrypted and handed from thread to thread costs a hop 10 us, so a message is
one; only a large tensor has a frame of its own, since copying would cost more.

Whatever bytes come in, decoding raises ValueError and nothing else.
"""

import functools
import math
import secrets
import struct
from collections.abc import Sequence
from typing import Union

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgewise.runtime.messages import Message
from edgewise.runtime.transport import Envelope

Frame = bytes | bytearray | memoryview

MAX_MESSAGE_BYTES = 2**28
MAX_DIMENSIONS = 8
MAX_SESSIONS = 64
OWN_FRAME_BYTES = 2**16  # of a tensor, from which on it has one
_LENGTH = struct.Struct("<I")
_DTYPES = {  # and what numpy, which has no bfloat16, reads them as
    "float32": (torch.float32, np.float32),
    "bfloat16": (torch.bfloat16, np.int16),
    "float16": (torch.float16, np.float16),
    "int64": (torch.int64, np.int64),
    "uint8": (torch.uint8, np.uint8),
}
_NAMES = {dtype: name for name, (dtype, _) in _DTYPES.items()}


class FrameHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`number` counts what `sender` has sent this participant in this `session`, from 1 on. `shape`
    and `dtype` are the tensor's, None and "" without one. `message` is encoded by its class."""

    sender: str
    session: int
    number: int
    shape: tuple[int, ...] | None
    dtype: str
    message: msgspec.Raw


_HEADER = msgspec.msgpack.Decoder(FrameHeader)
_encode = msgspec.msgpack.Encoder().encode


def _message_decoder() -> msgspec.msgpack.Decoder[Message]:
    """Of all classes of messages that this process knows by now: tuning's may come later."""
    return _decoder_of(len(Message.__subclasses__()))


@functools.cache
def _decoder_of(classes: int) -> msgspec.msgpack.Decoder[Message]:
    """Of so many classes, which are all there are."""
    return msgspec.msgpack.Decoder(Union[tuple(Message.__subclasses__())])  # noqa: UP007


class Numbering:
    """Numbers what one sender sends to one target. A session of its own for every connection: what
    a target remembers of an earlier one does not matter to this."""

    def __init__(self, sender: str) -> None:
        self._sender, self._session, self._last = sender, secrets.randbits(63), 0

    def encode(self, message: Message, tensor: Tensor | None = None) -> list[Frame]:
        """The next message's frames; a second one shares the tensor's memory where it can. Raises
        ValueError where others would not take it: too large, or of a type that does not travel."""
        shape: tuple[int, ...] | None = None
        dtype, memory = "", memoryview(b"")
        if tensor is not None:
            shape, dtype = tuple(tensor.shape), _NAMES.get(tensor.dtype, "")
            if not dtype or len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"a tensor {list(shape)} of {tensor.dtype} cannot be sent")
            memory = _memory(tensor)
        number = self._last + 1
        header = FrameHeader(self._sender, self._session, number, shape, dtype, _raw(message))
        encoded = _encode(header)
        if (size := len(encoded) + memory.nbytes) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{size} bytes are more than a message may have, {MAX_MESSAGE_BYTES}")
        self._last, length = number, _LENGTH.pack(len(encoded))
        if memory.nbytes < OWN_FRAME_BYTES:
            return [b"".join((length, encoded, memory))]
        return [length + encoded, memory]


def _raw(message: Message) -> msgspec.Raw:
    return msgspec.Raw(_encode(message))


def _memory(tensor: Tensor) -> memoryview:
    """A tensor's bytes. Few calls of torch: each is slow in a process that just woke up."""
    if tensor.requires_grad or not (tensor.is_cpu and tensor.is_contiguous()):
        tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:  # which numpy does not have
        tensor = tensor.view(torch.int16)
    return tensor.numpy().data


class History:
    """What one sender has sent so far: tells what comes a second time."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # by session, the oldest first

    def is_new(self, header: FrameHeader) -> bool:
        """Whether a frame's number is above all before it in its session; remembers it then."""
        if header.number <= self._last.get(header.session, 0):
            return False
        if header.session not in self._last and len(self._last) == MAX_SESSIONS:
            del self._last[next(iter(self._last))]
        self._last[header.session] = header.number
        return True


def _split(frame: Frame) -> tuple[memoryview, memoryview]:
    """A header's bytes, and those behind it."""
    view = memoryview(frame)
    if view.nbytes < _LENGTH.size:
        raise ValueError("malformed header: too short")
    (length,) = _LENGTH.unpack_from(view)
    end = _LENGTH.size + length
    if end > view.nbytes:
        raise ValueError("malformed header: cut off")
    return view[_LENGTH.size : end], view[end:]


def header_of(frame: Frame) -> FrameHeader:
    """Who says that they sent this, and where in their order. Raises ValueError."""
    try:
        return _HEADER.decode(_split(frame)[0])
    except Exception as error:
        raise ValueError(f"malformed header: {error}") from None


def envelope_of(header: FrameHeader, frames: Sequence[Frame]) -> Envelope:
    """The message of a header's frames, and its tensor in their memory, which has to be writable.
    Raises ValueError."""
    _, tensor = _split(frames[0])
    if len(frames) == 2 and not tensor.nbytes:
        tensor = memoryview(frames[1])
    elif len(frames) != 1:
        raise ValueError(f"{len(frames)} frames are no message")
    try:
        message = _message_decoder().decode(header.message)
    except Exception as error:  # a class may raise what it likes about its fields
        raise ValueError(f"malformed message: {error}") from None
    if header.shape is not None:
        return Envelope(header.sender, message, _tensor(header.shape, header.dtype, tensor))
    if tensor.nbytes:
        raise ValueError(f"{tensor.nbytes} bytes behind a message without a tensor")
    return Envelope(header.sender, message)


def _tensor(shape: tuple[int, ...], name: str, buffer: memoryview) -> Tensor:
    if name not in _DTYPES:
        raise ValueError(f"tensors of {name!r} do not travel")
    dtype, read_as = _DTYPES[name]
    size = buffer.nbytes
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} dimensions")
    # Zeros count as ones here: not even the strides of an empty tensor may overflow.
    if math.prod(max(n, 1) for n in shape) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a tensor {list(shape)} is too large")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"a tensor {list(shape)} of {name} does not have {size} bytes")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    numbers = np.frombuffer(buffer, read_as).reshape(shape)
    # Bytes of a small frame lie anywhere; kernels want numbers on multiples of their size.
    tensor = torch.from_numpy(numbers if numbers.flags.aligned else numbers.copy())
    return tensor.view(dtype) if dtype is torch.bfloat16 else tensor
