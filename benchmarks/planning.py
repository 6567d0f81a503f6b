"""Claim: `joint` plans 80 blocks on 15 devices in 6 schemes, and 126 blocks on 1000 devices of ten
kinds, in seconds and with a proven gap, and plans again quickly after a device is lost.

Schemes are synthetic arrays of six bit-widths, so the solver is called on arrays. Gaps refer to
plans with one stage per device, two on the source. `python benchmarks/planning.py [seconds]`.
"""

import json
import os
import platform
import sys
import time

import highspy
import numpy as np

from edgewise.planning.joint.arrays import Floats, JointProblem, Placement
from edgewise.planning.joint.solve import SECONDS, solve

BITS = np.array([2.25, 3.25, 4.25, 6.25, 8.25, 16.0])
LIMIT = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
ROWS: list[dict[str, object]] = []


def instance(
    seed: int, blocks: int, devices: int, passes: float, schemes: int = 6, tight: float = 1.6,
    slow: float = 0.002,
) -> JointProblem:  # fmt: skip
    """Distinct devices whose memory together is `tight` times the model at about four bits; the
    budget is what that width everywhere would lose."""
    rng = np.random.default_rng(seed)
    bits = BITS[np.linspace(0, 5, schemes).round().astype(int)]
    n, m = blocks + 2, devices
    count = np.full(n, 0.2e9)
    count[[0, -1]] = 0.26e9
    size = count[:, None] * bits / 8
    size[1:-1] += 4e6
    band, fixed = rng.lognormal(np.log(60e9), 0.7, m), rng.uniform(20e-6, 200e-6, m)
    seconds = size[:, None, :] / band[None, :, None] + fixed[None, :, None]
    seconds[0] *= 0.02
    middle = int(np.abs(bits - 4).argmin())
    share = rng.lognormal(0.0, 0.5, m)
    room = size[:, middle].sum() * tight * share / share.sum()
    room[0] = max(room[0], 1.1 * size[0, -1])
    loss = _losses(rng, n, bits)
    hop = rng.lognormal(np.log(slow), 0.6, (m, m))
    np.fill_diagonal(hop, 0.0)
    allowed = np.ones((n, m), dtype=bool)
    allowed[0, 1:] = False
    return JointProblem(
        seconds, size, room, loss, float(loss[:, middle].sum()), rng.uniform(1e-4, 1e-3, m), hop,
        0.3 * hop[:, 0], 0.3 * hop[0], allowed, np.zeros(m, dtype=bool), passes,
    )  # fmt: skip


def _losses(rng: np.random.Generator, n: int, bits: Floats) -> Floats:
    """c_l * 4^-bits, c log-normal, the ends more sensitive; the widest scheme loses nothing."""
    scale = rng.lognormal(0.0, 0.8, n)
    scale[[0, -1]] *= 8
    loss = scale[:, None] * 4.0**-bits * rng.lognormal(0.0, 0.15, (n, len(bits)))
    loss[:, bits.argmax()] = 0.0
    return loss


def campus(passes: float, blocks: int = 126, devices: int = 1000, kinds: int = 10) -> JointProblem:
    """Equal devices of a few kinds, links by kind, and a source of its own."""
    p = instance(0, blocks, kinds + 1, passes, tight=0.45, slow=0.004)
    rng = np.random.default_rng(99)
    kind = np.concatenate([[0], 1 + np.sort(rng.integers(0, kinds, devices - 1))])
    hop = p.hop.copy()
    np.fill_diagonal(hop, rng.lognormal(np.log(0.003), 0.4, kinds + 1))
    hop = hop[np.ix_(kind, kind)]
    np.fill_diagonal(hop, 0.0)
    return p.with_(
        time=p.time[:, kind], cap=p.cap[kind], step=p.step[kind], hop=hop, ret=p.ret[kind],
        entry=p.entry[kind], allowed=p.allowed[:, kind], required=np.zeros(devices, dtype=bool),
    )  # fmt: skip


def measure(
    name: str, p: JointProblem, limit: float, warm: Placement | None = None
) -> Placement | None:
    began = time.perf_counter()
    found = solve(p, seconds=limit, warm=warm)
    seconds = time.perf_counter() - began
    best = found.placement
    score, gap = (best.objective, found.gap) if best else (None, None)
    print(
        f"{name:38} {'none' if score is None else f'{score * 1e3:9.3f} ms'} "
        f"{'' if gap is None else f'gap {gap:8.2%}'} {seconds:6.1f} s"
    )
    ROWS.append({"name": name, "seconds_per_round": score, "gap": gap, "seconds": seconds})
    return best


def without(p: JointProblem, j: int) -> JointProblem:
    allowed = p.allowed.copy()
    allowed[:, j] = False
    return p.with_(allowed=allowed)


def main() -> None:
    for label, passes in (("latency", 1.0), ("16 lanes", 16.0), ("period", np.inf)):
        for seed in range(3):
            measure(f"80 x 15 x 6, {label}, seed {seed}", instance(seed, 80, 15, passes), LIMIT)
        measure(f"126 x 1000 x 6, {label}", campus(passes), 6 * LIMIT)
    for seed in range(3):
        p = instance(seed, 80, 8, 1.0, tight=2.5)
        whole = measure(f"80 x 8 x 6, latency, seed {seed}", p, LIMIT)
        if whole is not None:
            lost = int(max(set(whole.device.tolist()) - {0}))
            measure(f"  device {lost} lost", without(p, lost), 1.0)
    for blocks, devices, schemes in ((20, 8, 6), (40, 8, 6), (160, 8, 6), (80, 4, 6), (80, 8, 2)):
        p = instance(0, blocks, devices, 1.0, schemes)
        measure(f"{blocks} x {devices} x {schemes}, latency", p, LIMIT)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    versions["highspy"] = str(highspy.Highs().version())
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "planning", "machine": machine, **versions, "rows": ROWS}))


if __name__ == "__main__":
    main()
