"""`python -m edgewise.runtime.worker`: how launchers start a worker."""

from edgewise.runtime.worker.worker import run_worker

if __name__ == "__main__":
    run_worker()
