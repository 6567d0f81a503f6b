"""More requests than a running engine can answer, by every policy in turn."""

import pytest

from edgewise.batching import POLICIES
from edgewise.clusters import Cluster
from edgewise.demo import MODEL_FOLDER
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.coordinator.admission import Admission
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from edgewise.studies.dftsp.processes import measured_pace, plan_alone, run_policy
from edgewise.studies.dftsp.traffic import Traffic, share_in_time

WORK = Workload(64, 64, sequences=8)
DRAWS = 3  # by turns: what else the machine does hurts all policies alike


@pytest.mark.timing
def test_dftsp_answers_more_in_time_than_every_other_policy() -> None:
    model = str(MODEL_FOLDER)
    spec, cluster = open_checkpoint(model).spec, Cluster.of_this_machine(10**9, 2)
    plan = plan_alone(spec, model, cluster.source, "fp32")
    with start_local(cluster) as workers:
        pace = measured_pace(workers, cluster, spec, plan, WORK)
        asked = [Traffic(load=2.0, count=80).draw(pace, seed) for seed in range(DRAWS)]
        shares = dict.fromkeys(POLICIES, 0.0)
        for incoming in asked:
            for name, policy in POLICIES.items():
                served = run_policy(workers, plan, WORK, Admission(policy, pace), incoming)
                shares[name] += share_in_time(served) / DRAWS
    assert shares["dftsp"] > max(share for name, share in shares.items() if name != "dftsp")
