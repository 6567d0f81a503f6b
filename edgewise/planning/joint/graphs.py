"""Moves between devices as a graph: what they reach, its pieces, and a walk that makes them all."""


def reached_from(first: int, moves: list[tuple[int, int]]) -> set[int]:
    """Where moves lead from `first`, itself included."""
    reached, edge = {first}, [first]
    while edge:
        at = edge.pop()
        for g, h in moves:
            if g == at and h not in reached:
                reached.add(h)
                edge.append(h)
    return reached


def pieces(groups: list[int], moves: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Connected parts of some groups, and all of them together."""
    either = [*moves, *((h, g) for g, h in moves)]
    inside = [pair for pair in either if pair[0] in groups and pair[1] in groups]
    parts = {tuple(sorted(reached_from(g, inside))) for g in groups}
    return sorted({*parts, tuple(groups)} - {()})


def euler(first: int, moves: list[tuple[int, int]]) -> tuple[int, ...]:
    """The visits of a walk that makes every move once (Hierholzer 1873)."""
    left: dict[int, list[int]] = {}
    for g, h in sorted(moves, reverse=True):
        left.setdefault(g, []).append(h)
    stack, order = [first], list[int]()
    while stack:
        if left.get(stack[-1]):
            stack.append(left[stack[-1]].pop())
        else:
            order.append(stack.pop())
    return tuple(order[::-1])
