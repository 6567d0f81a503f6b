"""The commands as a person or a program runs them."""

import inspect
import json
import os
import pty
import signal
import subprocess
import sys
import time
from importlib import import_module

import psutil
import pytest

from edgewise.cli.commands import COMMANDS
from edgewise.demo.questions import same_answer
from tests.seeds import cases


def test_demo_json_ends_with_one_document(start):
    process = start("demo", "--model", "demo", "--json")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    document = json.loads(out)
    assert document.keys() >= {
        "model",
        "devices",
        "plans",
        "chosen",
        "predicted_seconds_per_token",
        "measured_seconds_per_token",
        "question",
        "answer",
        "expected_answer",
    }
    plans = {plan["planner"]: plan for plan in document["plans"]}
    assert plans.keys() >= {"solo", "even", "edgeshard"}
    assert not plans["solo"]["feasible"]
    assert plans[document["chosen"]]["feasible"]
    assert len(document["devices"]) == 3
    stages = plans[document["chosen"]]["stages"]
    assert {stage["device"] for stage in stages} == {"laptop", "jetson", "pi"}
    # The chosen plan is the one with the least predicted time.
    feasible = [p["predicted_seconds_per_token"] for p in plans.values() if p["feasible"]]
    assert document["predicted_seconds_per_token"] == min(feasible)
    assert document["measured_seconds_per_token"] > 0
    assert same_answer(document["answer"], document["expected_answer"])


def test_demo_for_people_prints_tables_and_no_control_characters_when_piped(start):
    process = start("demo", "--model", "demo")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in out
    for part in (
        "Devices",
        "Plans (predicted)",
        "does not fit",
        "Question",
        "Time per token",
        " serve demo,",
    ):
        assert part in out


def test_run_answers_on_this_machine(command, asked, question):
    result = command("run", "demo", question, "--raw")
    assert result.code == 0
    assert same_answer(result.out, asked.answer)
    assert result.err == "note: demo runs as its file has it (11.1 MB)\n"


def test_run_applies_the_chat_template(command, asked):
    result = command("run", "demo", f"{asked.context}\n{asked.question}")
    assert same_answer(result.out, asked.answer)


def test_run_across_a_cluster_gives_the_same_answer(command, slow_cluster, question):
    alone = command("run", "demo", question, "--raw", "--json")
    spread = command("run", "demo", question, "--raw", "--json", "--cluster", slow_cluster)
    one, many = json.loads(alone.out), json.loads(spread.out)
    assert one["answer"] == many["answer"]
    assert len(one["plan"]["stages"]) == 1
    assert len(many["plan"]["stages"]) > 1
    assert many["seconds_per_token"] > 0.08  # two hops of 40 ms and more


def test_the_next_run_on_a_cluster_measures_nothing(command, slow_cluster, question, monkeypatch):
    asked = ("run", "demo", question, "--raw", "--json", "--cluster", slow_cluster)
    first = json.loads(command(*asked).out)
    monkeypatch.setattr("edgewise.opening.profile.measure_cluster", None)
    again = command(*asked)
    assert again.code == 0, again.err
    assert json.loads(again.out)["plan"] == first["plan"]
    assert json.loads(again.out)["answer"] == first["answer"]


def test_a_runs_trace_shows_every_stage_and_the_request(
    command, slow_cluster, plan_file, question, tmp_path
):
    path = tmp_path / "trace.json"
    asked = ("run", "demo", question, "--raw", "--json", "--cluster", slow_cluster)
    ran = command(*asked, "--plan", plan_file, "--trace", path)
    assert ran.code == 0, ran.err
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"laptop", "jetson", "pi", "requests"}
    steps = [e for e in events if e["ph"] == "X" and e["cat"] == "compute"]
    tokens = json.loads(ran.out)["tokens"]
    assert len(steps) == 3 * tokens
    (answer,) = (e for e in events if e["name"] == "answer")
    assert answer["args"]["tokens"] == tokens
    assert answer["dur"] > 80_000 * (tokens - 1)  # microseconds: two hops of 40 ms a token


def test_a_cache_in_8_bits_answers_alike_and_takes_less(
    command, slow_cluster, profiled, question, tmp_path
):
    path = tmp_path / "plan.json"
    asked = ("plan", "demo", "--cluster", slow_cluster, "--json", "--out", path)
    asked += ("--profile", profiled(["bf16"]))
    asked += ("--prompt-tokens", 8, "--new-tokens", 90, "--sequences", 5)
    held = {}
    for cache in ("full", "int8"):
        made = command(*asked, "--kv-cache", cache)
        assert made.code == 0, made.err
        planned = json.loads(made.out)["plans"][0]
        held[cache] = sum(planned["memory_bytes"].values())
    assert held["int8"] < 0.95 * held["full"]
    assert json.loads(path.read_text())["cache"] == "int8"
    by_plan = command("run", "demo", question, "--raw", "--cluster", slow_cluster, "--plan", path)
    alone = command("run", "demo", question, "--raw", "--kv-cache", "int8")
    full = command("run", "demo", question, "--raw")
    assert by_plan.out == alone.out == full.out
    wrong = command("run", "demo", question, "--kv-cache", "int3")
    assert wrong.code == 2 and "'int3' is not one of 'full', 'int8'" in wrong.err


def test_what_links_carry_is_planned_measured_and_run(
    command, slow_cluster, profiled, question, tmp_path
):
    text = slow_cluster.read_text().replace('latency = "40 ms"', 'bandwidth = "1 Mbps"')
    slow_cluster.write_text(text)
    path = tmp_path / "plan.json"
    asked = ("plan", "demo", "--cluster", slow_cluster, "--json", "--out", path)
    asked += ("--profile", profiled(["bf16"]), "--require", "pi")
    hops = {}
    for wire in ("fp32", "bf16", "int8"):
        made = command(*asked, "--wire", wire)
        assert made.code == 0, made.err
        hops[wire] = json.loads(made.out)["plans"][0]["predicted_seconds_per_token"]
    assert hops["fp32"] > hops["bf16"] > hops["int8"]
    assert json.loads(path.read_text())["wire"] == "int8"
    by_plan = command("run", "demo", question, "--raw", "--cluster", slow_cluster, "--plan", path)
    full = command("run", "demo", question, "--raw")
    assert same_answer(by_plan.out, full.out)
    losses = {}
    for asked in (("--plan", path), ("--scheme", "bf16")):
        measured = command("evaluate", "demo", "--limit", 4, "--json", *asked)
        losses[asked[0]] = json.loads(measured.out)["kl"]
    assert losses["--plan"] > losses["--scheme"]


def test_a_plan_file_is_followed(command, slow_cluster, profiled, question, tmp_path):
    path = tmp_path / "plan.json"
    asked = ("plan", "demo", "--cluster", slow_cluster, "--profile", profiled(["bf16"]))
    made = command(*asked, "--out", path, "--json")
    document = json.loads(made.out)
    assert document["chosen"] in {plan["planner"] for plan in document["plans"]}
    ran = command(
        "run", "demo", question, "--raw", "--json", "--cluster", slow_cluster, "--plan", path
    )
    assert json.loads(ran.out)["plan"] == json.loads(path.read_text())


def test_seeded_sampling_repeats_and_stop_strings_end_the_answer(command, question):
    hot = ("run", "demo", question, "--raw", "--temperature", 3, "--max-tokens", 12)
    drawn = command(*hot, "--seed", 1).out
    assert command(*hot, "--seed", 1).out == drawn
    assert command(*hot, "--seed", 2).out != drawn
    whole = command("run", "demo", question, "--raw").out
    first, *_ = whole.split()
    cut = json.loads(command("run", "demo", question, "--raw", "--stop", first[1:], "--json").out)
    assert cut["answer"].strip() == first[0]
    assert cut["finish"] == "stop"


def test_max_tokens_ends_the_answer(command, question):
    document = json.loads(
        command("run", "demo", question, "--raw", "--max-tokens", 3, "--json").out
    )
    assert (document["tokens"], document["finish"]) == (3, "length")


def test_devices_describes_this_machine_and_a_cluster(command, slow_cluster):
    machine = json.loads(command("devices", "--json").out)
    assert machine["memory_bytes"] == psutil.virtual_memory().total
    cluster = json.loads(command("devices", "--cluster", slow_cluster, "--json").out)
    assert [device["name"] for device in cluster["devices"]] == ["laptop", "jetson", "pi"]
    assert "laptop (source)" in command("devices", "--cluster", slow_cluster).out


def test_help_imports_nothing_heavy():
    script = (
        "import sys, edgewise.cli\n"
        "heavy = {'torch', 'transformers', 'highspy', 'numpy', 'matplotlib', 'zmq', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_a_function_of_its_options(name):
    options, target = COMMANDS[name]
    module, _, function = target.partition(":")
    signature = inspect.signature(getattr(import_module(module), function))
    assert [x.annotation for x in signature.parameters.values()] == [options]


def test_help_of_every_command(command):
    for name in COMMANDS:
        result = command(name, "--help")
        assert result.code == 0
        assert "Usage" in result.out
        assert name in command("--help").out
    assert command("--version").out.startswith("edgewise ")


def answering(question, cluster, plan):
    """A command that takes seconds to answer."""
    return ("run", "demo", question, "--raw", "--cluster", cluster, "--plan", plan)


def children_when_answering(process):
    """Wait for the first text of an answer, and return it and the workers by device."""
    start = process.stdout.read(1)
    assert start
    children = psutil.Process(process.pid).children(recursive=True)
    return start, [x for x in children if "edgewise.runtime.worker" in x.cmdline()]


@pytest.mark.parametrize("victim", cases([1], [0, 1, 2]))
def test_killing_a_worker_of_a_plan_file_ends_the_command(
    start, slow_cluster, plan_file, question, victim
):
    process = start(*answering(question, slow_cluster, plan_file))
    _, workers = children_when_answering(process)
    began = time.monotonic()
    workers[victim].kill()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 15  # a second or two where nothing else runs
    assert process.returncode == 4
    assert "was killed by SIGKILL while it held layers" in err
    assert any(f"device '{name}'" in err for name in ("laptop", "jetson", "pi"))
    assert not any(worker.is_running() for worker in workers)


def rest_of(process):
    """What it still says, and how it ended."""
    with process:
        return process.stdout.read(), process.stderr.read(), process.wait(60)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_mid_answer_changes_no_word_of_it(
    command, start, slow_cluster, question, victim
):
    whole = command("run", "demo", question, "--raw").out
    process = start("run", "demo", question, "--raw", "--cluster", slow_cluster)
    first, workers = children_when_answering(process)
    workers[victim].kill()
    rest, err, code = rest_of(process)
    assert (code, first + rest) == (0, whole)
    if victim == 0:  # the source holds layers in any plan
        assert "was killed by SIGKILL" in err and "without it since" in err
    assert not any(worker.is_running() for worker in workers)


def test_a_worker_killed_alone_starts_again(command, start, question):
    long = ("--raw", "--temperature", "9", "--seed", "1", "--max-tokens", "400")
    whole = command("run", "demo", question, *long).out
    process = start("run", "demo", question, *long)
    first, (worker,) = children_when_answering(process)
    worker.kill()
    rest, err, code = rest_of(process)
    assert (code, first + rest) == (0, whole)
    assert "was killed by SIGKILL" in err


def test_where_what_is_left_is_too_small_the_command_ends(start, slow_cluster, question):
    slow_cluster.write_text(slow_cluster.read_text().replace('"10 MB"', '"5.6 MB"'))
    asked = ("run", "demo", question, "--raw", "--scheme", "bf16", "--cluster", slow_cluster)
    process = start(*asked)
    _, workers = children_when_answering(process)
    workers[1].kill()
    _, err, code = rest_of(process)
    assert code == 3
    assert "no plan is left without 'jetson'" in err


def test_ctrl_c_ends_the_command_and_its_workers(start, slow_cluster, plan_file, question):
    process = start(*answering(question, slow_cluster, plan_file))
    _, workers = children_when_answering(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "error: interrupted\n"
    assert not any(worker.is_running() for worker in workers)


def test_progress_bars_are_for_terminals_only(slow_cluster, plan_file, question):
    main, sub = pty.openpty()
    command = [*answering(question, slow_cluster, plan_file), "--max-tokens", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewise", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=sub,
    )
    os.close(sub)
    shown = b""
    try:
        while piece := os.read(main, 65536):
            shown += piece
    except OSError:  # Linux reports the end of a pseudo-terminal as an error
        pass
    os.close(main)
    assert process.wait(60) == 0
    assert b"loading" in shown
