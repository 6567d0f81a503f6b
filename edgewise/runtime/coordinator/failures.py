"""What a worker raised, for whoever waits for it."""

from edgewise import errors
from edgewise.errors import DeviceError, EdgewiseError
from edgewise.runtime import messages


def error_of(failed: messages.Failed) -> EdgewiseError:
    """As the same class where it is one of ours."""
    kind, text = getattr(errors, failed.error or "-", None), failed.text
    if isinstance(kind, type) and issubclass(kind, DeviceError):
        return kind(failed.device, text.removeprefix(f"device '{failed.device}' "))
    if isinstance(kind, type) and issubclass(kind, EdgewiseError):
        return kind(text)
    return DeviceError(failed.device, f"failed: {text}")
