"""The joint planner. `solve` works on arrays; `joint` makes a Problem of them and of the answer a
plan that explains itself."""

from edgewise.planning.joint.planner import joint

__all__ = ["joint"]
