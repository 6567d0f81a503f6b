"""`edgewise run`: answer a prompt, on this machine or across a cluster."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from edgewise.cli.answer import Answer, answer
from edgewise.cli.default_scheme import ORDER, check_size, first_plan
from edgewise.cli.prepare import best, compare, measure_cluster
from edgewise.cli.quality_plan import plan_for_quality
from edgewise.cli.terminal import bars, print_json, print_notes, print_text, progress
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import InputError, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.planning import Problem
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.profiling import Grid, read_memory
from edgewise.quality.rounding import rounding_for
from edgewise.runtime.coordinator import Coordinator, check_request, check_route
from edgewise.runtime.engine import Request
from edgewise.runtime.local import LocalDevices
from edgewise.runtime.machine import free_bytes
from edgewise.runtime.sampling import Sampling
from edgewise.schemes import CacheType, get_scheme
from edgewise.sensitivities import parse_quality
from edgewise.specs import ModelSpec, Workload

DEFAULT_MAX_TOKENS = 128


def run_prompt(
    model: str,
    prompt: str,
    *,
    cluster_file: Path | None,
    plan_file: Path | None,
    scheme: str | None,
    quality: str | None,
    cache: CacheType,
    max_tokens: int | None,
    sampling: Sampling,
    stop: Sequence[str],
    raw: bool,
    as_json: bool,
) -> None:
    """Everything that can be wrong is found before a process starts."""
    if scheme is not None:
        get_scheme(scheme)
    if quality is not None:
        parse_quality(quality)
    if sum(x is not None for x in (plan_file, scheme, quality)) > 1:
        raise InputError("a plan file, a scheme and a quality decide alike: give one of them")
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
    tokenizer = load_tokenizer(model)
    request = _request(tokenizer, prompt, max_tokens, sampling, raw, spec)
    cache = cache if plan is None else plan.cache
    workload = Workload(len(request.prompt), request.max_tokens, cache=cache)
    if quality is not None:
        plan = plan_for_quality(model, spec, cluster, workload, quality, as_json)
    if plan is None:
        check_size(spec, scheme or ORDER[-1], cluster, workload)
    with LocalDevices(cluster) as devices:
        if plan is None:
            plan = _plan(devices, model, spec, workload, scheme, as_json)
        else:
            _check_memory(devices, spec, workload, plan)
        rounding = rounding_for(model, plan.schemes, plan.rounding, bars(as_json))
        plan = replace(plan, rounding=rounding)
        with progress("loading", spec.num_layers, as_json) as advance:
            engine = Coordinator(devices, model, plan, workload, on_layer=advance)
        on_text = (lambda text: None) if as_json else print_text
        found = answer(engine, tokenizer, request, stop, on_text)
    _report(found, plan, as_json)


def this_machine() -> Cluster:
    """This machine as the only device: its physical cores, its free memory."""
    threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return Cluster.of_this_machine(free_bytes(), threads)


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
    devices: LocalDevices,
    model: str,
    spec: ModelSpec,
    workload: Workload,
    scheme: str | None,
    quiet: bool,
) -> Plan:
    cluster = devices.cluster

    def plan_in(name: str) -> Plan:
        check_size(spec, name, cluster, workload)
        if len(cluster.devices) > 1:
            grid = Grid.around(workload)
            profile = measure_cluster(devices, model, spec, [name], grid, quiet)
            problem = Problem(CostModel(spec, cluster, profile, workload), (name,))
            return best(problem, compare(problem)).plan
        # One device leaves nothing to choose, so no seconds have to be measured.
        stage = Stage(cluster.source, 0, spec.num_layers, (name,) * spec.num_layers)
        plan = Plan(spec.name, spec.digest, spec.num_layers, (stage,), cache=workload.cache)
        _check_memory(devices, spec, workload, plan)
        return plan

    return first_plan(spec, cluster, workload, plan_in) if scheme is None else plan_in(scheme)


def _check_memory(devices: LocalDevices, spec: ModelSpec, workload: Workload, plan: Plan) -> None:
    """Raises Infeasible where the plan takes more than the machines have free now."""
    profile = Profile(spec.digest, (), read_memory(devices), ())
    CostModel(spec, devices.cluster, profile, workload).check_memory(plan)


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
