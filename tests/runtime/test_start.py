"""Starting workers: what the working directory, the temporary folder and the machine may do to it,
and numbers that are none on a device."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import zmq
from safetensors.torch import load_file, save_file

from edgewise.clusters import Cluster, Device
from edgewise.errors import ClusterError, EdgewiseError, NonFinite
from edgewise.runtime import sockets
from edgewise.runtime.engine import Request, samples, stream
from edgewise.runtime.launchers import local as launched
from edgewise.runtime.local import open_engine, start_local
from edgewise.runtime.processors import finished_at
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.sockets import socket_folder
from tests.runtime.conftest import WORKLOAD, cluster, plan_of, reference

ONE = Cluster((Device("a", 10**9),), (), "a")


@pytest.mark.parametrize("path", [None, "elsewhere:"])  # an empty entry is the working directory
def test_a_worker_imports_nothing_from_the_working_directory(tmp_path, monkeypatch, path):
    for module in ("psutil", "numpy", "queue", "sitecustomize", "edgewise"):
        file = tmp_path / f"{module}.py"
        file.write_text("raise RuntimeError('the file of the working directory')")
    monkeypatch.chdir(tmp_path)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    with start_local(ONE) as devices:
        assert devices.round_trip("a") > 0


def test_the_module_can_be_run_beside_such_files(tmp_path):
    for name in ("psutil", "typer", "rich"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the working directory')")
    done = subprocess.run(
        [sys.executable, "-m", "edgewise", "devices", "--json"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_a_long_temporary_folder(tmp_path, monkeypatch):
    """Paths count in bytes, and nothing stays behind where the sockets are instead."""
    folder = tmp_path / ("\N{EURO SIGN}" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "not there"))
    with start_local(ONE) as devices:
        assert devices.round_trip("a") > 0
        used = Path(devices._transport.peer.address.removeprefix("ipc://")).parent
    assert not used.exists()
    assert not any(folder.iterdir())


def test_where_every_folder_is_too_long(monkeypatch):
    monkeypatch.setattr(zmq, "IPC_PATH_MAX_LEN", 20, raising=False)
    monkeypatch.setattr(sockets, "_NAMES", 24)
    with pytest.raises(EdgewiseError, match="set TMPDIR to a folder whose path has at most"):
        socket_folder()


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ("tpu", "processor 'tpu' is not known; known processors: cpu, cuda, mps, xpu, or 'cuda:1'"),
        ("cuda:x", "processor 'cuda:x' is not known"),
        ("meta", "processor 'meta' is not known"),
        ("cuda:99", "processor 'cuda:99' is not there: this machine has"),
        ("cpu:1", "processor 'cpu:1' is not there: this machine has 1 of that kind"),
    ],
)
def test_a_processor_that_is_not_there(monkeypatch, processor, message):
    monkeypatch.setattr(launched.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    lacking = Cluster((Device("a", 10**9), Device("b", 10**9, processor=processor)), (), "a")
    with pytest.raises(ClusterError) as error:
        start_local(lacking)
    assert str(error.value).startswith(f"device 'b': {message}")


def test_timings_wait_for_a_processor(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    moments = [finished_at(torch.device(name)) for name in ("cpu", "cuda:1", "mps")]
    assert waited == [torch.device("cuda:1"), "mps"]
    assert moments == sorted(moments)


def test_numbers_that_are_none_name_device_and_layers(checkpoint, tmp_path, prompt):
    """Only the second stage overflows."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.gate_proj.weight"  # of layer 3
    tensors[name] = tensors[name].sign() * 1e38
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    spec, plan = plan_of(folder, ("laptop", 2), ("jetson", 4), ("pi", 6))
    with pytest.raises(NonFinite) as error:
        open_engine(str(folder), plan, cluster(), WORKLOAD, spec=spec)
    assert str(error.value).startswith(
        "device 'jetson' failed: layers 2-3 computed numbers that are not finite; "
    )


def test_samples_of_a_prompt_differ_and_can_be_had_again(checkpoint, prompt):
    """In one engine and one after the other, cut or whole: a token depends on its stream alone."""
    hot = Request(prompt, 12, Sampling(temperature=2.0, seed=5))
    asked = samples(hot, 3)
    model = checkpoint("llama")
    spec, plan = plan_of(model, ("laptop", 3), ("pi", 6))
    engine = open_engine(str(model), plan, cluster(), WORKLOAD, spec=spec)
    try:
        numbers = {engine.submit(request): i for i, request in enumerate(asked)}
        together: list[list[int]] = [[], [], []]
        for tokens in iter(engine.step, []):
            for token in tokens:
                together[numbers[token.request]].append(token.id)
        again = [token.id for token in stream(engine, asked[1])]
    finally:
        engine.close()
    assert together == [reference(model, request) for request in asked]
    assert again == together[1]
    assert len({tuple(tokens) for tokens in together}) == 3
    assert asked[0] == hot  # the first stream is the one that nobody asks for


def test_the_environment_keeps_the_rest(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "one", "", "two"]))
    assert launched._environment()["PYTHONPATH"] == os.pathsep.join(["one", "two"])
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in launched._environment()
    assert launched._environment()["PATH"] == os.environ["PATH"]
