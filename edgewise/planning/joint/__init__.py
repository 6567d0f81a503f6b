"""Devices, order, cuts and schemes chosen together."""

from edgewise.planning.joint.planner import joint, quick_joint

__all__ = ["joint", "quick_joint"]
