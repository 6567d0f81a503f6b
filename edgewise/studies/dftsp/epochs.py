"""DFTSP's own model: a base station whose server answers users batch by batch, epoch by epoch
(arXiv 2405.07140; a reconstruction, the paper's text could not be read).

With L blocks of width d, feed-forward 4 d, prompts padded to s, an answer of n tokens, alpha and
beta a quantization method's factors of memory and time, C FLOP/s and M bytes of the server:

    memory   alpha (2 L (4 d^2 + 8 d^2) + sum of 4 L d (s + n)) <= M
    prompt   c_I = L (6 s d^2 + 4 s^2 d + 2 s d^2 + 16 s d^2)
    answer   c_A = (n - 1) L (6 d^2 + 4 (s + n / 2) d + 2 d^2 + 16 d^2)
    time     waited + T_U + beta (sum of c_I + c_A) / C + T_D <= tau of everyone, and the sum's part
             within the epoch's time for computing
    uplink   sum of 32 s / (T_U B log2(1 + p |h|^2 / N)) <= 1, and the downlink likewise
    quality  a request's need is at most f(increase of perplexity)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from edgewise.batching import Candidate, Room, largest_set
from edgewise.studies.published import Table

TOKEN_BITS = 32
LENGTHS = (128, 256, 512)  # of prompts and answers [R]
PADDED = max(LENGTHS)
MOST_CHECKED = 2000


@dataclass(frozen=True, slots=True)
class Language:
    """A model by its published shape."""

    name: str
    blocks: int
    width: int


@dataclass(frozen=True, slots=True)
class Method:
    """A quantization method: shares of memory and time that it leaves, and what it adds to the
    perplexity. Invented: no source was read."""

    name: str
    memory: float
    time: float
    perplexity: float

    @property
    def quality(self) -> float:
        return math.exp(-self.perplexity)


MODELS = (
    Language("BLOOM-3B", 30, 2560),
    Language("BLOOM-7.1B", 30, 4096),
    Language("OPT-13B", 40, 5120),
)
METHODS = (
    Method("W16A16", 1.0, 1.0, 0.0),
    Method("W8A16", 0.5, 0.7, 0.02),
    Method("W4A16, GPTQ", 0.25, 0.5, 0.35),
    Method("W4A16, ZeroQuant-Local", 0.25, 0.5, 0.6),
)


@dataclass(frozen=True, slots=True)
class Station:
    """The server, its radio and its epochs, in FLOP/s, bytes, Hz, watts and seconds."""

    devices: int
    flops: float
    memory: float
    hertz: float
    user_watts: float
    station_watts: float
    noise_watts: float
    path_loss: float
    epoch: float
    up: float
    down: float

    @staticmethod
    def of(setting: Table) -> "Station":
        server, radio, epoch = ({k: float(c.value) for k, c in setting[row].items()}
                                for row in ("server", "radio", "epoch"))  # fmt: skip
        hertz = radio["megahertz"] * 1e6
        return Station(
            devices=int(server["devices"]),
            flops=server["devices"] * server["teraflops"] * 1e12,
            memory=server["gigabytes"] * 1e9,
            hertz=hertz,
            user_watts=_watts(radio["user dBm"]),
            station_watts=_watts(radio["station dBm"]),
            noise_watts=_watts(radio["noise dBm/Hz"]) * hertz,
            path_loss=radio["path loss"],
            epoch=epoch["epoch seconds"],
            up=epoch["uplink seconds"],
            down=epoch["downlink seconds"],
        )

    @property
    def computing(self) -> float:
        return self.epoch - self.up - self.down

    def share(self, tokens: int, seconds: float, watts: float, fading: float) -> float:
        """Of the bandwidth, to carry so many tokens in so many seconds."""
        ratio = watts * self.path_loss * fading / self.noise_watts
        return tokens * TOKEN_BITS / (seconds * self.hertz * math.log2(1 + ratio))


def _watts(dbm: float) -> float:
    return float(10 ** (dbm / 10 - 3))


@dataclass(frozen=True, slots=True)
class User:
    """A request on the air: when it came, within how many seconds it is to be answered, how long
    prompt and answer are, what quality it needs, and how strong its channel is."""

    at: float
    patience: float
    prompt: int
    answer: int
    need: float
    fading: float


def draw_users(
    per_second: float, patience: tuple[float, float], seconds: float, seed: int
) -> list[User]:
    """Poisson arrivals; all else evenly, the channel Rayleigh [R]."""
    draw, at, users = Random(seed), 0.0, list[User]()
    while (at := at + draw.expovariate(per_second)) < seconds:
        lengths = draw.choice(LENGTHS), draw.choice(LENGTHS)
        fading = draw.expovariate(1.0) + 1e-3
        users.append(User(at, draw.uniform(*patience), *lengths, draw.random(), fading))
    return users


@dataclass(frozen=True, slots=True)
class EpochModel:
    """What a language model in a quantization method costs at a station."""

    station: Station
    language: Language = MODELS[0]
    method: Method = METHODS[1]

    @property
    def room(self) -> Room:
        weights = 24 * self.language.blocks * self.language.width**2
        memory = self.station.memory / self.method.memory - weights
        return Room(slots=10**6, memory=round(memory))

    def candidate(self, number: int, user: User, now: float) -> Candidate:
        """With what is left to it of its patience, and of the epoch."""
        station = self.station
        left = user.patience - (now - user.at) - station.up - station.down
        return Candidate(
            number,
            slack=min(left, station.computing),
            seconds=self.seconds(user.answer),
            memory=4 * self.language.blocks * self.language.width * (PADDED + user.answer),
            uplink=station.share(user.prompt, station.up, station.user_watts, user.fading),
            downlink=station.share(user.answer, station.down, station.station_watts, user.fading),
        )

    def seconds(self, answer: int) -> float:
        """Of the server, for a prompt and an answer of so many tokens."""
        width, prompt = self.language.width, PADDED
        first = 24 * prompt * width**2 + 4 * prompt**2 * width
        others = (answer - 1) * (24 * width**2 + 4 * (prompt + answer / 2) * width)
        return self.method.time * self.language.blocks * (first + others) / self.station.flops


_Served = tuple[Sequence[Candidate], Sequence[Candidate]]  # in time, and late


def dftsp_epoch(waiting: Sequence[Candidate], model: EpochModel) -> _Served:
    return largest_set(waiting, model.room, MOST_CHECKED).chosen, ()


def fcfs_epoch(waiting: Sequence[Candidate], model: EpochModel) -> _Served:
    """In their order, as many as the epoch has room for."""
    return _in_order(waiting, model, len(waiting))


def static_epoch(waiting: Sequence[Candidate], model: EpochModel) -> _Served:
    """In their order, as many as fit an epoch if all lengths are average [R]."""
    average = sum(map(model.seconds, LENGTHS)) / len(LENGTHS)
    return _in_order(waiting, model, max(int(model.station.computing / average), 1))


def single_epoch(waiting: Sequence[Candidate], model: EpochModel) -> _Served:
    """Every device answers one request, by itself [R]."""
    count, room = model.station.devices, model.room
    alone = [replace(one, seconds=count * one.seconds) for one in waiting[:count]]
    in_time = [one for one in alone if room.fits([one])]
    return in_time, [one for one in alone if one not in in_time]


def _in_order(waiting: Sequence[Candidate], model: EpochModel, most: int) -> _Served:
    """All of a batch wait for all of it; deadlines are not looked at."""
    room, batch = model.room, list[Candidate]()
    for one in waiting[:most]:
        anyhow = [replace(x, slack=model.station.computing) for x in (*batch, one)]
        if not room.fits(anyhow):
            break
        batch.append(one)
    end = sum(one.seconds for one in batch)
    return [x for x in batch if end <= x.slack], [x for x in batch if end > x.slack]


EPOCH_POLICIES: dict[str, Callable[[Sequence[Candidate], EpochModel], _Served]] = {
    "fcfs": fcfs_epoch,
    "static-batch": static_epoch,
    "no-batch": single_epoch,
    "dftsp": dftsp_epoch,
}


def answered_in_time(model: EpochModel, policy: str, users: Sequence[User], epochs: int) -> int:
    """How many users are, by so many epochs. Those who need more quality than there is, or could
    not be answered in time even alone, are not asked for."""
    waiting, arrived, answered = dict[int, User](), 0, 0
    for number in range(1, epochs + 1):
        now = number * model.station.epoch
        while arrived < len(users) and users[arrived].at <= now:
            if users[arrived].need <= model.method.quality:
                waiting[arrived] = users[arrived]
            arrived += 1
        asking = [model.candidate(i, user, now) for i, user in waiting.items()]
        able = [one for one in asking if one.seconds <= one.slack]
        in_time, late = EPOCH_POLICIES[policy](able, model)
        answered += len(in_time)
        gone = {one.number for one in (*in_time, *late)}
        waiting = {one.number: users[one.number] for one in able if one.number not in gone}
    return answered
