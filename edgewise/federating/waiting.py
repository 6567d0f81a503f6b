"""How long a round waits for those who have not answered."""

from collections.abc import Collection

SLOWER = 3.0  # times as long as the quicker half may the others take
GRACE = 15.0  # seconds more


def waited_until(answers: Collection[float], asked: int, deadline: float) -> float:
    """Seconds after which a round goes on without the rest: the deadline, until half of those asked
    have answered after so many seconds each; then a few times as long as these took."""
    if 2 * len(answers) < asked or not answers:
        return deadline
    half = sorted(answers)[(asked + 1) // 2 - 1]
    return min(deadline, SLOWER * half + GRACE)
