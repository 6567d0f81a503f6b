"""Orders a move away from an order, against all orders and what a move is."""

from itertools import permutations

from edgewise.planning.joint.search import neighbours

GROUPS = 4
Order = tuple[int, ...]


def one_move(a: Order, b: Order) -> bool:
    """Whether a group was left out, put in or put in another's place, or two changed about."""
    if len(a) == len(b):
        other = [k for k in range(len(a)) if a[k] != b[k]]
        changed_about = len(other) == 2 and sorted(a) == sorted(b)
        return len(other) <= 1 or changed_about
    long, short = (a, b) if len(a) > len(b) else (b, a)
    return len(long) == len(short) + 1 and any(
        long[:k] + long[k + 1 :] == short for k in range(len(long))
    )


def test_orders_that_come_back_nowhere_have_all_such_orders_near_them() -> None:
    every = [x for count in range(1, GROUPS + 1) for x in permutations(range(GROUPS), count)]
    for order in every:
        assert neighbours(order, GROUPS) == {x for x in every if one_move(order, x)}


def test_an_order_that_comes_back_once_has_neighbours_that_do_so_once_at_most() -> None:
    near = neighbours((0, 1, 0), 3)
    assert {(0, 1), (1, 0), (0, 1, 2), (0, 1, 2, 0), (2, 1, 0), (0, 0, 1), (0, 2, 0)} <= near
    assert all(len(x) - len(set(x)) <= 1 for x in near)
