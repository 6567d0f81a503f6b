"""What a test that fails says of its problem."""

from edgewise.planning import Problem


def told(problem: Problem) -> str:
    """All of a problem, to be read: for the message of a test that fails."""
    costs, model, work = problem.costs, problem.costs.model, problem.costs.workload
    lines = [
        f"{model.name}: {problem.objective} of {work}, first token weighs "
        f"{problem.first_token_weight}; loss at most {problem.budget:g}; pinned "
        f"{dict(problem.pinned)}, forbidden {set(problem.forbidden)}, required "
        f"{set(problem.required)}; from '{problem.source}'",
        f"hidden {model.hidden_size}, vocabulary {model.vocab_size}, tied {model.tied}",
    ]
    for number, layer in enumerate(model.layers):
        sizes = {s: costs.layer_bytes(number, s) for s in problem.schemes}
        losses = {s: round(costs.loss(number, s), 4) for s in problem.schemes}
        lines.append(f"layer {number} ({layer.kind}): bytes {sizes}, losses {losses}")
    for name in problem.devices:
        milliseconds = {
            s: [round(costs.decode_seconds(i, name, s) * 1e3, 4) for i in range(problem.num_layers)]
            for s in problem.schemes
        }
        rate = costs.cluster.device(name).interface_bytes_per_second
        lines.append(
            f"device '{name}': {costs.capacity_bytes(name)} bytes for layers, interface {rate:.0f} "
            f"bytes per second, step "
            f"{costs.step_seconds(name) * 1e3:.4f} ms, ms per layer {milliseconds}"
        )
    for a in problem.devices:
        for b in problem.devices:
            if a != b and (link := costs.link(a, b)) is not None:
                rate, delay = link.bytes_per_second, link.latency_seconds * 1e3
                lines.append(f"link {a} -> {b}: {rate:.0f} bytes per second, {delay:.4f} ms")
    return "\n".join(("", *lines))
