"""Runs that were done, so that a study that was stopped goes on with the rest. What a run came to
depends on the model's weights, the settings, the data, what fails, and on the code."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import edgewise
from edgewise.caches import cache_folder, cache_key, read_cached, write_text_atomically
from edgewise.errors import ProfileError
from edgewise.federating.exchanges import FederatedRound
from edgewise.federating.traffic import RoundTraffic
from edgewise.federation.settings import FederatedSettings
from edgewise.kernels import library_digest
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.digests import tensor_digests
from edgewise.tuning.judging import Verdict

CODE = (
    "adapters", "demo", "federating", "federation", "kernels", "models", "quantization", "tuning",
    "schemes.py", "specs.py", "tensor_files.py", "texts.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FederatedRun:
    """Its rounds, and what its last adapter is worth on the union of all questions."""

    name: str
    settings: FederatedSettings
    rounds: Sequence[FederatedRound]
    verdict: Verdict

    @property
    def title(self) -> str:
        """Its name, and how many rounds there were where they were fewer than planned."""
        done, planned = len(self.rounds), self.settings.rounds
        return self.name + (f", {done} of {planned} rounds" if 0 < done < planned else "")


def place_of(settings: FederatedSettings, *what: object) -> Path | None:
    """Where a run is kept; None for a user without a home. Raises ModelError."""
    folder = cache_folder("federated")
    if folder is None:
        return None
    checkpoint = open_checkpoint(settings.model)
    weights = tensor_digests(checkpoint, checkpoint.tensors())
    return folder / f"{cache_key(_code(), weights, settings, *what)}.json"


def keep_run(path: Path | None, run: FederatedRun) -> None:
    """Without the rounds' adapters."""
    document = {"rounds": [_plain(x) for x in run.rounds], "verdict": asdict(run.verdict)}
    write_text_atomically(path, json.dumps(document))


def kept_run(path: Path | None, name: str, settings: FederatedSettings) -> FederatedRun | None:
    """A run that was done, if it was."""

    def read(path: Path) -> FederatedRun:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            rounds = [
                FederatedRound(arrays={}, traffic=RoundTraffic(**x.pop("traffic")), **x)
                for x in document["rounds"]
            ]
            return FederatedRun(name, settings, rounds, Verdict(**document["verdict"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ProfileError(f"{path}: {error}") from None

    return read_cached(path, read)


def _plain(done: FederatedRound) -> dict[str, object]:
    return {
        "number": done.number, "answered": list(done.answered), "silent": list(done.silent),
        "refused": list(done.refused), "traffic": asdict(done.traffic), "loss": done.loss,
        "utility": done.utility, "leader": done.leader, "deposed": list(done.deposed),
    }  # fmt: skip


@cache
def _code() -> str:
    """What computes a run."""
    return cache_key(library_digest(), *(x.read_text(encoding="utf-8") for x in code_files()))


def code_files() -> list[Path]:
    """Of what computes a run, what is Python."""
    package = Path(edgewise.__file__).parent
    own = [path for path in Path(__file__).parent.glob("*.py") if path.stem in ("runs", "faults")]
    within = [package / name for name in CODE if not name.endswith(".py")]
    files = [package / name for name in CODE if name.endswith(".py")]
    files += [path for folder in within for path in folder.rglob("*.py")]
    return sorted(path for path in files + own if "flower" not in path.parts)
