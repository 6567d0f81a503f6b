"""What a worker needs to know to start."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from edgewise.clusters import Device, Link
from edgewise.runtime.messages import Peer


@dataclass(frozen=True, slots=True)
class Settings:
    """Who a worker is: `bind` is where its inbox shall be, `public` and `secret` its keys, ""
    where sockets are this user's alone. `links` into it are emulated; `turns` is a file that
    emulated devices of one machine share, "" for none."""

    device: Device
    bind: str
    coordinator: Peer
    public: str = ""
    secret: str = ""
    links: Mapping[str, Link] = field(default_factory=dict)
    turns: str = ""

    def to_line(self) -> bytes:
        """One line of text, as a worker reads it from its standard input."""
        return base64.b64encode(msgspec.msgpack.encode(self)) + b"\n"

    @staticmethod
    def from_line(line: bytes) -> "Settings":
        """Raises ValueError where it is none."""
        return msgspec.msgpack.decode(base64.b64decode(line), type=Settings)
