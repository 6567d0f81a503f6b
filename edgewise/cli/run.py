"""`edgewise run`: answer a prompt, on this machine or across a cluster."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from edgewise.cli.answer import Answer, answer
from edgewise.cli.prepare import best, compare, measure_cluster
from edgewise.cli.terminal import print_json, print_notes, print_text, progress
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel, device_bytes
from edgewise.errors import Infeasible, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.planning import Problem
from edgewise.plans import Plan, Stage
from edgewise.profiling import Grid
from edgewise.quality.prepare import full_name
from edgewise.runtime.coordinator import Coordinator, check_request, check_route
from edgewise.runtime.engine import Request
from edgewise.runtime.local import LocalDevices
from edgewise.runtime.sampling import Sampling
from edgewise.schemes import CacheType, get_scheme
from edgewise.specs import ModelSpec, Workload
from edgewise.units import format_bytes

DEFAULT_MAX_TOKENS = 128


def run_prompt(
    model: str,
    prompt: str,
    *,
    cluster_file: Path | None,
    plan_file: Path | None,
    scheme: str,
    cache: CacheType,
    max_tokens: int | None,
    sampling: Sampling,
    stop: Sequence[str],
    raw: bool,
    as_json: bool,
) -> None:
    """Everything that can be wrong is found before a process starts."""
    get_scheme(scheme)
    if not prompt.strip():
        raise PromptError("the prompt is empty")
    checkpoint = open_checkpoint(model)
    spec = checkpoint.spec
    print_notes(checkpoint.notes)
    cluster = load_cluster(cluster_file) if cluster_file else this_machine()
    plan = Plan.load(plan_file) if plan_file else None
    if plan is not None:
        plan.check(spec, cluster)
        check_route(plan, cluster)
        plan = replace(plan, rounding=full_name(model, plan.rounding))
    tokenizer = load_tokenizer(model)
    request = _request(tokenizer, prompt, max_tokens, sampling, raw, spec)
    cache = cache if plan is None else plan.cache
    workload = Workload(len(request.prompt), request.max_tokens, cache=cache)
    with LocalDevices(cluster) as devices:
        if plan is None:
            plan = _plan(devices, model, spec, workload, scheme, as_json)
        with progress("loading", spec.num_layers, as_json) as advance:
            engine = Coordinator(devices, model, plan, workload, on_layer=advance)
        on_text = (lambda text: None) if as_json else print_text
        found = answer(engine, tokenizer, request, stop, on_text)
    _report(found, plan, as_json)


def this_machine() -> Cluster:
    """This machine as the only device: its physical cores, its free memory."""
    threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return Cluster.of_this_machine(psutil.virtual_memory().available, threads)


def _request(
    tokenizer: Tokenizer,
    prompt: str,
    max_tokens: int | None,
    sampling: Sampling,
    raw: bool,
    spec: ModelSpec,
) -> Request:
    if raw or not tokenizer.has_chat_template:
        ids = tokenizer.encode(prompt)
    else:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    room = max(spec.max_context - len(ids), 1)
    wanted = min(DEFAULT_MAX_TOKENS, room) if max_tokens is None else max_tokens
    request = Request(tuple(ids), wanted, sampling, tokenizer.stop_ids)
    check_request(request, spec.max_context, spec.vocab_size, spec.name)
    return request


def _plan(
    devices: LocalDevices, model: str, spec: ModelSpec, workload: Workload, scheme: str, quiet: bool
) -> Plan:
    cluster = devices.cluster
    if len(cluster.devices) > 1:
        grid = Grid.around(workload)
        profile = measure_cluster(devices, model, spec, [scheme], grid, quiet)
        problem = Problem(CostModel(spec, cluster, profile, workload), (scheme,))
        return best(problem, compare(problem)).plan
    # One device leaves nothing to choose, so nothing has to be measured.
    stage = Stage(cluster.source, 0, spec.num_layers, (scheme,) * spec.num_layers)
    needed, has = device_bytes(spec, [stage], workload), cluster.devices[0].memory_bytes
    if needed > has:
        raise Infeasible(
            f"'{model}' needs {format_bytes(needed)}, but '{cluster.source}' has "
            f"{format_bytes(has)}: {format_bytes(needed - has)} too little; add devices with "
            "--cluster, or store fewer bits with --scheme",
            shortage_bytes=needed - has,
        )
    return Plan(spec.name, spec.digest, spec.num_layers, (stage,), cache=workload.cache)


def _report(found: Answer, plan: Plan, as_json: bool) -> None:
    if not as_json:
        print_text("\n")
        return
    pace = found.seconds_per_token
    document = {
        "answer": found.text,
        "finish": found.finish,
        "tokens": found.tokens,
        "seconds_per_token": pace,
        "plan": json.loads(plan.to_json()),
    }
    print_json(document)
