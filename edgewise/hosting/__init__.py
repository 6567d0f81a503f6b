"""One model on a cluster whose devices come and go: measure them, plan, answer, plan again."""

from edgewise.hosting.choosing import Chooser
from edgewise.hosting.host import Host
from edgewise.hosting.measured import Measured
from edgewise.hosting.overview import Overview
from edgewise.hosting.state import DeviceState, Event, State

__all__ = ["Chooser", "DeviceState", "Event", "Host", "Measured", "Overview", "State"]
