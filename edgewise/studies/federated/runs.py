"""What is tried: together, alone, at one place, around failures and liars."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgewise.adapters import Kind
from edgewise.errors import NothingLearned
from edgewise.federating.exchanges import Clients, FederatedRound
from edgewise.federating.updates import Arrays
from edgewise.federation.learner import Learner, begin
from edgewise.federation.local import LocalClients
from edgewise.federation.model import SharedModel, load_shared
from edgewise.federation.settings import FederatedSettings, rounds_of
from edgewise.studies.federated.city import City
from edgewise.studies.federated.faults import FaultyClients, Lie
from edgewise.studies.federated.kept import FederatedRun, keep_run, kept_run, place_of
from edgewise.studies.page import OnStep, quietly
from edgewise.tuning.judging import Verdict
from edgewise.tuning.lessons import Lesson

Lessons = Mapping[str, tuple[Sequence[Lesson], Sequence[Lesson]]]  # learned, held out


class Trials:
    """Runs in one process, around one model for each kind of adapter."""

    def __init__(self, settings: FederatedSettings, city: City, on_step: OnStep = quietly) -> None:
        self.settings, self.city, self._on_step = settings, city, on_step
        self._models = dict[tuple[Kind, int], SharedModel]()

    def together(
        self, name: str, lie: Lie | None = None, *, lost: bool = False, **changes: Any
    ) -> FederatedRun:
        """All districts; `changes` are of the settings."""
        settings = replace(self.settings, **changes)
        fault = lie.__name__ if lie else "lost" if lost else ""
        return self._run(name, settings, self.city.districts, fault, lie, lost)

    def alone(self, district: str) -> FederatedRun:
        """A district's own data, and as many steps as it takes together."""
        own = {district: self.city.districts[district]}
        return self._run(f"{district} alone", self._apart(), own)

    def central(self) -> FederatedRun:
        """All data at one place: as many steps as all districts take, one after the other."""
        settings = self._apart(steps=self.settings.steps * len(self.city.districts))
        return self._run("at one place", settings, {"all": (self.city.learned, [])})

    def _apart(self, **changes: Any) -> FederatedSettings:
        """Where nothing is merged, there is no momentum of merging."""
        return replace(self.settings, momentum=0.0, **changes)

    def untrained(self) -> FederatedRun:
        verdict = self.judged(self.settings, begin(self.settings))
        return FederatedRun("not adapted", self.settings, (), verdict)

    def judged(self, settings: FederatedSettings, arrays: Arrays) -> Verdict:
        """By the union of all questions."""
        model = self._model(settings)()
        model.put(arrays)
        return model.judge(self.city.union)

    def _run(
        self,
        name: str,
        settings: FederatedSettings,
        data: Lessons,
        fault: str = "",
        lie: Lie | None = None,
        lost: bool = False,
    ) -> FederatedRun:
        lessons = tuple((x, tuple(one), tuple(other)) for x, (one, other) in data.items())
        place = place_of(settings, lessons, tuple(self.city.union), fault)
        run = kept_run(place, name, settings)
        if run is None:
            learners = LocalClients(self._learners(settings, data))
            rounds = rounds_there_are(settings, FaultyClients(learners, lie, lost=lost))
            verdict = self.judged(settings, rounds[-1].arrays)
            run = FederatedRun(name, settings, rounds, verdict)
            keep_run(place, run)
        self._on_step(name)
        return run

    def _learners(self, settings: FederatedSettings, data: Lessons) -> dict[str, Learner]:
        model = self._model(settings)
        return {
            name: Learner(settings, model, learned, held_out, name)
            for name, (learned, held_out) in data.items()
        }

    def _model(self, settings: FederatedSettings) -> Callable[[], SharedModel]:
        key = settings.kind, settings.rank
        if key not in self._models:
            self._models[key] = load_shared(settings)
        model = self._models[key]
        return lambda: model


def rounds_there_are(settings: FederatedSettings, clients: Clients) -> list[FederatedRound]:
    """Until all are done, or a lie left nothing to learn from: what there was counts, if it is at
    least a round."""
    rounds = list[FederatedRound]()
    try:
        for done in rounds_of(settings, clients, begin(settings)):
            rounds.append(done)
    except NothingLearned:
        if not rounds:
            raise
    return rounds
