"""`edgewise run`: answer a prompt, on this machine or across a cluster."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import psutil

from edgewise.cli.answer import Answer, answer
from edgewise.cli.commands import RunOptions
from edgewise.cli.prepare import best, compare, measure_cluster
from edgewise.cli.quality_plan import plan_for_quality
from edgewise.cli.terminal import bars, print_json, print_notes, print_text, progress
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.errors import Infeasible, InputError, PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.planning import Problem
from edgewise.planning.default_scheme import (
    ORDER,
    check_size,
    description,
    schemes_that_fit,
    too_large,
)
from edgewise.plans import Plan, Stage
from edgewise.profiles import Profile
from edgewise.profiling import Grid, read_memory
from edgewise.quality.rounding import rounding_for
from edgewise.runtime.checks import check_request, check_route
from edgewise.runtime.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.runtime.machine import free_bytes
from edgewise.runtime.recording import Recording
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.workers import Workers
from edgewise.schemes import get_scheme
from edgewise.sensitivities import parse_quality
from edgewise.specs import ModelSpec, Workload

DEFAULT_MAX_TOKENS = 128


def run_prompt(options: RunOptions) -> None:
    """Everything that can be wrong is found before a process starts."""
    model, scheme, as_json = options.model, options.scheme, options.as_json
    _check_wishes(options)
    prompt = _standard_input() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise PromptError("the prompt is empty")
    checkpoint = open_checkpoint(model)
    spec = checkpoint.spec
    print_notes(checkpoint.notes)
    cluster = load_cluster(options.cluster) if options.cluster else this_machine()
    plan = Plan.load(options.plan) if options.plan else None
    if plan is not None:
        plan.check(spec, cluster)
        check_route(plan, cluster)
    tokenizer = load_tokenizer(model)
    request = _request(tokenizer, prompt, options, spec)
    cache, wire = (options.kv_cache, options.wire) if plan is None else (plan.cache, plan.wire)
    workload = Workload(len(request.prompt), request.max_tokens, cache=cache, wire=wire)
    if options.quality is not None:
        plan = plan_for_quality(model, spec, cluster, workload, options.quality, as_json)
    if plan is None:
        check_size(spec, scheme or ORDER[-1], cluster, workload)
    with start_local(cluster) as workers:
        if plan is None:
            plan = _plan(workers, model, spec, workload, scheme, as_json)
        else:
            _check_memory(workers, spec, workload, plan)
        rounding = rounding_for(model, plan.schemes, plan.rounding, bars(as_json))
        plan = replace(plan, rounding=rounding)
        with progress("loading", spec.num_layers, as_json) as advance:
            engine = Coordinator(workers, model, plan, workload, on_layer=advance)
        recording = Recording()
        if options.trace is not None:
            engine.listen(recording.listen)
        on_text = (lambda text: None) if as_json else print_text
        given = answer(engine, tokenizer, request, options.stop or (), on_text)
    if options.trace is not None:
        options.trace.write_text(recording.chrome_trace() + "\n", encoding="utf-8")
    _report(given, plan, as_json)


def _check_wishes(options: RunOptions) -> None:
    if options.scheme is not None:
        get_scheme(options.scheme)
    if options.quality is not None:
        parse_quality(options.quality)
    if sum(x is not None for x in (options.plan, options.scheme, options.quality)) > 1:
        raise InputError("a plan file, a scheme and a quality decide alike: give one of them")


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise PromptError(
            f"standard input is not text in the terminal's encoding: {error}"
        ) from None


def this_machine() -> Cluster:
    """This machine as the only device: its physical cores, its free memory."""
    threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return Cluster.of_this_machine(free_bytes(), threads)


def _request(tokenizer: Tokenizer, prompt: str, options: RunOptions, spec: ModelSpec) -> Request:
    if options.raw or not tokenizer.has_chat_template:
        ids = tokenizer.encode(prompt)
    else:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    room = max(spec.max_context - len(ids), 1)
    wanted = options.max_tokens
    wanted = min(DEFAULT_MAX_TOKENS, room) if wanted is None else wanted
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    request = Request(tuple(ids), wanted, sampling, tokenizer.stop_ids)
    check_request(request, spec.max_context, spec.vocab_size, spec.name)
    return request


def _plan(
    workers: Workers,
    model: str,
    spec: ModelSpec,
    workload: Workload,
    scheme: str | None,
    quiet: bool,
) -> Plan:
    cluster = workers.cluster

    def plan_in(name: str) -> Plan:
        check_size(spec, name, cluster, workload)
        if len(cluster.devices) > 1:
            grid = Grid.around(workload)
            profile = measure_cluster(workers, model, spec, [name], grid, quiet)
            problem = Problem(CostModel(spec, cluster, profile, workload), (name,))
            return best(problem, compare(problem)).plan
        # One device leaves nothing to choose, so no seconds have to be measured.
        stage = Stage(cluster.source, 0, spec.num_layers, (name,) * spec.num_layers)
        named, kept = (spec.name, spec.digest, spec.num_layers), (workload.cache, workload.wire)
        plan = Plan(*named, (stage,), None, *kept)
        _check_memory(workers, spec, workload, plan)
        return plan

    return _first_plan(spec, cluster, workload, plan_in) if scheme is None else plan_in(scheme)


def _first_plan(
    spec: ModelSpec, cluster: Cluster, workload: Workload, plan_in: Callable[[str], Plan]
) -> Plan:
    """The plan in the first scheme that fits, and in a line on stderr what was chosen. Raises
    Infeasible where not even the fewest bits fit."""
    reason: Infeasible | None = None
    for name in schemes_that_fit(spec, cluster, workload):
        try:
            plan = plan_in(name)
        except Infeasible as error:  # enough memory in all, but not where it is needed
            reason = error
            continue
        print_notes([description(spec, name, workload, len(cluster.devices))])
        return plan
    raise reason or too_large(spec, ORDER[-1], cluster, workload)


def _check_memory(workers: Workers, spec: ModelSpec, workload: Workload, plan: Plan) -> None:
    """Raises Infeasible where the plan takes more than the machines have free now."""
    profile = Profile(spec.digest, (), read_memory(workers), ())
    CostModel(spec, workers.cluster, profile, workload).check_memory(plan)


def _report(given: Answer, plan: Plan, as_json: bool) -> None:
    if not as_json:
        print_text("\n")
        return
    document = {
        "answer": given.text,
        "finish": given.finish,
        "tokens": given.tokens,
        "seconds_per_token": given.seconds_per_token,
        "plan": json.loads(plan.to_json()),
    }
    print_json(document)
