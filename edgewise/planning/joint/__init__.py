"""Devices, order, cuts and schemes chosen together."""

from edgewise.planning.joint.planner import joint

__all__ = ["joint"]
