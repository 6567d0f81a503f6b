"""What is known of a model on devices: bytes by its shape, seconds where they were measured."""

from pathlib import Path

import pytest

from edgewise.advice.gather import gather, schemes_of, variant_of
from edgewise.clusters import Cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.profile import kept_profile, profile_path, wide_grid
from edgewise.schemes import STORED
from edgewise.simulation.rooflines import Roofline, make_profile

SPEC = open_checkpoint("demo").spec
ROOMY, TIGHT = Cluster.of_this_machine(10**9, 1), Cluster.of_this_machine(10**6, 1)
FIGURES = (Roofline("local", 1e11, 1e9),)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgewise" / "profiles"


def keep(cache: Path, cluster: Cluster, *schemes: str) -> None:
    path = profile_path(SPEC, cluster, schemes, wide_grid(SPEC))
    assert path is not None and path.is_relative_to(cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make_profile(SPEC, FIGURES, schemes).to_json())


def test_without_a_profile_only_bytes_are_known(cache: Path) -> None:
    variants = gather({"demo": SPEC}, ROOMY)
    assert [x.scheme for x in variants] == schemes_of(SPEC)
    assert all(x.fits and not x.measured and x.record_seconds is None for x in variants)
    assert [x.needed_bytes for x in variants] == sorted(x.needed_bytes for x in variants)[::-1]
    assert [x.bits for x in variants] == sorted(x.bits for x in variants)[::-1]
    assert all(x.learning_bytes > x.needed_bytes for x in variants)
    assert not any(x.fits for x in gather({"demo": SPEC}, TIGHT))


def test_weights_and_bits_are_counted() -> None:
    variant = variant_of("demo", SPEC, "8bit", ROOMY)
    matrices = sum(rows * columns for x in SPEC.layers for rows, columns in x.matrices)
    others = sum(x.other_weights for x in SPEC.layers)
    table = SPEC.vocab_size * SPEC.hidden_size if SPEC.tied else 0
    assert variant.weights == matrices + others - table
    assert 8.4 < variant.bits < 9  # 8, and 16 bits of scale for every 32; norms stay in 16


@pytest.mark.parametrize("schemes", [("4bit",), (STORED,)])
def test_a_kept_profile_gives_seconds_of_its_schemes(cache: Path, schemes: tuple[str, ...]) -> None:
    keep(cache, ROOMY, *schemes)
    by_scheme = {x.scheme: x for x in gather({"demo": SPEC}, ROOMY)}
    measured = {name for name, x in by_scheme.items() if x.measured}
    assert measured == set(schemes)
    variant = by_scheme[schemes[0]]
    assert variant.decode_seconds and variant.record_seconds
    assert variant.record_seconds > variant.decode_seconds


def test_a_profile_of_other_devices_says_nothing(cache: Path) -> None:
    keep(cache, Cluster.of_this_machine(10**9, 2), STORED)
    assert kept_profile(SPEC, ROOMY, (STORED,)) is None
    assert not any(x.measured for x in gather({"demo": SPEC}, ROOMY))


def test_where_no_plan_fits_what_was_measured_nothing_does(cache: Path) -> None:
    keep(cache, TIGHT, STORED)
    stored = gather({"demo": SPEC}, TIGHT)[0]
    assert not stored.fits and not stored.measured
