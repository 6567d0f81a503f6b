"""What a worker needs to know to start."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgewise.clusters import Device, Link


@dataclass(frozen=True, slots=True)
class Settings:
    """Who a worker is, and where everybody's inbox is."""

    device: Device
    addresses: Mapping[str, str]
    links: Mapping[str, Link]
    turns: str  # a file that all workers on this machine share

    def to_json(self) -> str:
        links = {
            name: {**asdict(link), "bytes_per_second": str(link.bytes_per_second)}
            for name, link in self.links.items()
        }
        document = {"device": asdict(self.device), "addresses": self.addresses}
        return json.dumps({**document, "links": links, "turns": self.turns})

    @staticmethod
    def from_json(text: str) -> "Settings":
        document = json.loads(text)
        links = {
            name: Link(**{**link, "bytes_per_second": float(link["bytes_per_second"])})
            for name, link in document["links"].items()
        }
        device = Device(**document["device"])
        return Settings(device, document["addresses"], links, document["turns"])
