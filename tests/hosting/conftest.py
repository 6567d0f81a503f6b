"""Commands that run beside each other, and leave nothing."""

import pytest

from tests.hosting.clusters import commands


@pytest.fixture
def started(tmp_path):
    with commands(tmp_path) as all_started:
        yield all_started
