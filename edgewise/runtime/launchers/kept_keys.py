"""What a cluster is known by, kept for the next `up` at the same address: with it, machines that
joined once find their way back."""

import contextlib
import os
from pathlib import Path

import msgspec

from edgewise.caches import APPLICATION
from edgewise.errors import InputError
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.transport.zeromq import Keys

Identity = tuple[Keys, Invitation]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public: str
    secret: str
    invitation: bytes


def make_identity() -> Identity:
    keys = Keys.make()
    return keys, Invitation.to(keys.public)


def identity_at(address: str, *, new: bool = False) -> tuple[Identity, bool]:
    """Of a cluster that listens at HOST:PORT: that of an earlier one there, unless it is to be
    `new`; and whether it is. At any port (0), and for users without a home, it serves once. Raises
    InputError where what was kept cannot be trusted or read."""
    path = None if address.endswith(":0") else _path(address)
    if path is not None and not new and path.exists():
        return _read(path), True
    keys, invitation = identity = make_identity()
    if path is not None:
        _write(path, _File(keys.public, keys.secret, invitation.secret))
    return identity, False


def _path(address: str) -> Path | None:
    """Below $XDG_CONFIG_HOME, else ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is to be ignored
        base = os.path.join(os.path.expanduser("~"), ".config")
    name = address.replace(":", "_")
    return Path(base) / APPLICATION / "keys" / f"{name}.json" if os.path.isabs(base) else None


def _read(path: Path) -> Identity:
    remedy = "--new-keys makes others"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid != os.getuid():
                raise InputError(f"others may read or write the keys in {path}; {remedy}")
            kept = msgspec.json.decode(file.read(), type=_File)
        return Keys(kept.public, kept.secret), Invitation(kept.public, kept.invitation)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"cannot read the keys in {path}: {error}; {remedy}") from None


def _write(path: Path, kept: _File) -> None:
    """For its owner alone from the first byte on. Where it cannot be written, they serve once."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(kept))
        partial.replace(path)
