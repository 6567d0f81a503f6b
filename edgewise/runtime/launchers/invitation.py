"""What somebody needs to join a cluster: the coordinator's public key, and a secret to show it."""

import base64
import secrets
from dataclasses import dataclass

import zmq.utils.z85 as z85

from edgewise.errors import InputError

SECRET_BYTES, KEY_BYTES = 16, 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """`key` is z85. Whoever connects knows by it that they talk to the right machine, and over an
    encrypted connection shows the secret."""

    key: str
    secret: bytes

    @staticmethod
    def to(key: str) -> "Invitation":
        return Invitation(key, secrets.token_bytes(SECRET_BYTES))

    @property
    def token(self) -> str:
        """Both as text for a command line."""
        return base64.urlsafe_b64encode(z85.decode(self.key) + self.secret).decode()

    @staticmethod
    def parse(token: str) -> "Invitation":
        """Raises InputError where it is no token."""
        try:
            content = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except ValueError:
            content = b""
        if len(content) != KEY_BYTES + SECRET_BYTES:
            raise InputError("this is not a token; copy the whole line that `edgewise up` printed")
        return Invitation(z85.encode(content[:KEY_BYTES]).decode(), content[KEY_BYTES:])
