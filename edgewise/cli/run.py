"""`edgewise run`: answer a prompt, on this machine or across a cluster."""

import json
from contextlib import closing

from edgewise.cli.answering import RunOptions
from edgewise.cli.options import ADAPTER, named_adapter
from edgewise.cli.terminal import bars, input_lines, print_json, print_notes, print_text
from edgewise.cluster_files import load_cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.opening.adapters import open_adapters
from edgewise.opening.answer import Answer, answer
from edgewise.opening.asking import request_of
from edgewise.opening.engine import open_wanted, this_machine
from edgewise.opening.wanted import Wanted
from edgewise.plans import Plan
from edgewise.runtime.coordinator.recording import Recording
from edgewise.runtime.engine import Request, stream
from edgewise.specs import ModelSpec, Workload


def run_prompt(options: RunOptions) -> None:
    """Everything that can be wrong is found before a process starts."""
    checkpoint = open_checkpoint(options.model)
    print_notes(checkpoint.notes)
    tokenizer = load_tokenizer(options.model)
    request = _request(options, tokenizer, checkpoint.spec)
    lengths = (len(request.prompt), request.max_tokens)
    workload = Workload(*lengths, cache=options.kv_cache, wire=options.wire)
    wanted = Wanted(
        options.model,
        load_cluster(options.cluster) if options.cluster else this_machine(),
        workload,
        Plan.load(options.plan) if options.plan else None,
        options.scheme,
        options.quality,
        options.private,
        adapters=open_adapters(named_adapter(options.adapter), checkpoint, options.vote),
    )
    recording = Recording()
    show, on_text = bars(options.as_json), _unheard if options.as_json else print_text
    with closing(open_wanted(wanted, show, lambda text: print_notes([text]))) as engine:
        if options.trace is not None:
            engine.listen(recording.listen)
        given = answer(stream(engine, request), tokenizer, options.stop or (), on_text)
        plan = engine.plan
    if options.trace is not None:
        options.trace.write_text(recording.chrome_trace() + "\n", encoding="utf-8")
    _report(given, plan, options.as_json)


def _request(options: RunOptions, tokenizer: Tokenizer, spec: ModelSpec) -> Request:
    return request_of(
        "".join(input_lines()) if options.prompt == "-" else options.prompt,
        tokenizer,
        spec,
        spec.max_context,
        raw=options.raw,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        adapter=ADAPTER if options.adapter else "",
    )


def _unheard(text: str) -> None:
    pass


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
