"""What can go wrong, as a tree. Every message says what happened, where, and what to do.

```text
EdgewiseError                  exit 1
+-- InputError                 exit 2   something the user gave is wrong
|   +-- ModelError                      folder, checkpoint file, tensor or architecture
|   +-- SchemeError                     a storage scheme that does not exist
|   +-- QuantizationError               weights that cannot be stored in a scheme
|   +-- ClusterError                    devices and links
|   +-- ProfileError                    measurements
|   +-- PlanError                       a plan that is malformed or made for something else
|   +-- PromptError                     prompt and sampling parameters
|       +-- Unattainable                a deadline or a quality that cannot be met
+-- Infeasible                 exit 3   no plan satisfies the constraints
+-- NonFinite                  exit 1   layers computed infinities or NaN
+-- NothingLearned             exit 1   no device's update of a round can be used
+-- DiskError                  exit 1   a disk is full, or gone, or does nothing
+-- DeviceError                exit 4   a device could not do its part; knows which one
    +-- DeviceMemoryError               its memory does not hold what it was given
    +-- DeviceLost                      its process ended
    +-- DeviceTimeout                   it did not answer in time
```
"""


class EdgewiseError(Exception):
    """Base of every error that Edgewise raises on purpose."""

    exit_code = 1


class InputError(EdgewiseError):
    exit_code = 2


class ModelError(InputError):
    pass


class SchemeError(InputError):
    pass


class QuantizationError(InputError):
    pass


class ClusterError(InputError):
    pass


class ProfileError(InputError):
    pass


class PlanError(InputError):
    pass


class PromptError(InputError):
    pass


class Unattainable(PromptError):
    pass


class Infeasible(EdgewiseError):
    """No plan exists. `shortage_bytes` says how much memory is missing, where that is known."""

    exit_code = 3

    def __init__(self, message: str, shortage_bytes: int | None = None) -> None:
        super().__init__(message)
        self.shortage_bytes = shortage_bytes


class NonFinite(EdgewiseError):
    """`sequences` are those of a step whose numbers are none, where that is known."""

    def __init__(self, message: str, sequences: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.sequences = sequences


class NothingLearned(EdgewiseError):
    pass


class DiskError(EdgewiseError):
    pass


class DeviceError(EdgewiseError):
    exit_code = 4

    def __init__(self, device: str, message: str) -> None:
        super().__init__(f"device '{device}' {message}")
        self.device = device


class DeviceMemoryError(DeviceError):
    pass


class DeviceLost(DeviceError):
    pass


class DeviceTimeout(DeviceError):
    pass
