"""What the SuperLink runs: the rounds, by whoever is there, and what came of them as files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from edgewise.errors import EdgewiseError
from edgewise.federating.exchanges import FederatedRound
from edgewise.federation.flower.grid import GridClients
from edgewise.federation.learner import begin
from edgewise.federation.settings import FederatedSettings, rounds_of
from edgewise.federation.shared import first_block, save_shared
from edgewise.models.checkpoint import open_checkpoint

app = ServerApp()


@app.main()
def run_rounds(grid: Grid, context: Context) -> None:
    """Events go into a file, a line each: whoever started this follows it."""
    config = context.run_config
    with open(str(config["events"]), "a", encoding="utf-8", buffering=1) as events:

        def tell(event: str, **what: Any) -> None:
            events.write(json.dumps({"event": event, **what}) + "\n")

        try:
            settings = FederatedSettings.from_config(config)
            checkpoint, start = open_checkpoint(settings.model), begin(settings)
            digest, deadline = checkpoint.spec.digest, float(config["deadline"])
            clients = GridClients(grid, start, digest, deadline, tell)
            clients.gather(int(config["least"]))
            tell("begin", names=clients.names(), traffic=asdict(clients.moved()))
            last: FederatedRound | None = None
            for last in rounds_of(settings, clients, start):
                tell("round", **told(last))
            first = first_block(checkpoint.config, settings.blocks)
            arrays = last.arrays if last else start
            save_shared(Path(str(config["out"])), arrays, checkpoint, settings.adapter, first)
            tell("done")
        except EdgewiseError as error:
            tell("failed", type=type(error).__name__, message=str(error))
        except Exception as error:
            tell("failed", type=type(error).__name__, message=f"the server failed: {error}")
            raise


def told(round: FederatedRound) -> dict[str, Any]:
    """A round without its arrays."""
    return {
        "number": round.number,
        "answered": list(round.answered),
        "silent": list(round.silent),
        "refused": list(round.refused),
        "loss": round.loss,
        "utility": round.utility,
        "leader": round.leader,
        "deposed": list(round.deposed),
        **asdict(round.traffic),
    }
