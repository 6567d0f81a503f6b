"""Cluster files shown in the documentation are cluster files."""

import re
from pathlib import Path

import pytest

from edgewise.cluster_files import load_cluster

ROOT = Path(__file__).parents[1]
SHOWN = [
    pytest.param(text, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL))
]


def test_some_are_shown() -> None:
    assert len(SHOWN) >= 2


@pytest.mark.parametrize("text", SHOWN)
def test_a_cluster_file_can_be_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    assert not load_cluster(path).unreachable()


def test_the_tutorial_shows_its_cluster_file() -> None:
    file = (ROOT / "examples" / "pis.toml").read_text()
    assert f"```toml\n{file}```" in (ROOT / "docs" / "tutorial.md").read_text()
