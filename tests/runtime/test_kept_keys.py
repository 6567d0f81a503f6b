"""A cluster's keys outlive it, for its owner alone."""

import pytest

from edgewise.errors import InputError
from edgewise.runtime.launchers.kept_keys import identity_at

ADDRESS = "0.0.0.0:7766"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Where the keys are kept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "edgewise" / "keys" / "0.0.0.0_7766.json"


def test_keys_are_those_of_the_last_time_until_new_ones_are_made(kept):
    first, _ = identity_at(ADDRESS)
    assert identity_at(ADDRESS) == (first, True)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    other, is_kept = identity_at(ADDRESS, new=True)
    assert not is_kept and other[0] != first[0] and other[1] != first[1]
    assert identity_at(ADDRESS) == (other, True)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_addresses_have_keys_of_their_own_and_any_port_has_none(kept):
    assert identity_at(ADDRESS) != identity_at("0.0.0.0:7767")
    assert identity_at("127.0.0.1:0") != identity_at("127.0.0.1:0")
    assert len(list(kept.parent.iterdir())) == 2


def test_without_a_home_keys_serve_once(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", "nowhere")
    assert identity_at(ADDRESS)[0] != identity_at(ADDRESS)[0]


def test_keys_that_others_can_read_are_not_used(kept):
    identity_at(ADDRESS)
    kept.chmod(0o640)
    with pytest.raises(InputError, match="others may read or write the keys"):
        identity_at(ADDRESS)
    assert not identity_at(ADDRESS, new=True)[1]
    assert identity_at(ADDRESS)[1]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"public": 1}', b"\xff"])
def test_keys_that_are_damaged_are_said_to_be(kept, content):
    identity_at(ADDRESS)
    kept.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the keys in .*; --new-keys makes others"):
        identity_at(ADDRESS)
