"""A worker in a control group of its own, which ends it where it takes more memory than the
environment says: from its first line on, page cache and all. For streaming.py."""

import os
from pathlib import Path

GROUPS, LIMIT = Path("/sys/fs/cgroup/memory"), "EDGEWISE_BENCHMARK_LIMIT"


def group_of(pid: int) -> Path:
    return GROUPS / f"edgewise-{pid}"


def enter_group() -> None:
    group = group_of(os.getpid())
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(os.environ[LIMIT])
    (group / "cgroup.procs").write_text(str(os.getpid()))


if __name__ == "__main__":
    enter_group()
    from edgewise.runtime.worker.worker import run_worker

    run_worker()
