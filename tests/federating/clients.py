"""Clients that need no model: each draws two numbers towards its own target."""

import numpy as np

from edgewise.federating.exchanges import (
    ADAPTER,
    LOSS,
    SAMPLES,
    UTILITY,
    AskedFor,
    Parcel,
)
from edgewise.federating.rounds import Merging, lead
from edgewise.federating.traffic import RoundTraffic

START = {"x.middle": np.zeros(2, dtype=np.float32)}


def adapter(*numbers):
    return {"x.middle": np.array(numbers, dtype=np.float32)}


class ToyClients:
    """`targets` by name; `twisted` changes what a client answers, None being silence."""

    def __init__(self, targets, twisted=lambda name, request, parcel: parcel, merging=None):
        self.targets, self.twisted = dict(targets), twisted
        self.merging, self.at = merging or Merging(), {}
        self.asked, self.counted = [], 0

    def names(self):
        return sorted(self.targets)

    def ask(self, requests):
        self.asked.append({name: request.wanted for name, request in requests.items()})
        replies = {}
        for name, request in requests.items():
            self.counted += 1
            parcel = self.twisted(name, request, self.answer(name, request))
            if parcel is not None:
                replies[name] = parcel
        return replies

    def answer(self, name, request):
        target, given = np.array(self.targets[name], dtype=np.float32), request.parcel.adapters
        match request.wanted:
            case AskedFor.TRAIN | AskedFor.SWIM:
                x = given[ADAPTER]["x.middle"]
                self.at[name] = {"x.middle": (x + 0.5 * (target - x)).astype(np.float32)}
                far = float(np.linalg.norm(self.at[name]["x.middle"] - target))
                if request.wanted is AskedFor.TRAIN:
                    return Parcel({ADAPTER: self.at[name]}, {SAMPLES: 10.0, LOSS: far})
                return Parcel({}, {UTILITY: -far, LOSS: far})
            case AskedFor.SEND:
                return Parcel({ADAPTER: self.at[name]})
            case AskedFor.JUDGE:
                far = {k: -float(np.linalg.norm(x["x.middle"] - target)) for k, x in given.items()}
                return Parcel({}, {**far, SAMPLES: 10.0})
            case AskedFor.LEAD:
                return lead(request.parcel, self.merging)

    def moved(self):
        counted, self.counted = self.counted, 0
        return RoundTraffic(counted, counted)
