"""Cut a row of costs into groups of neighbours whose largest sum is as small as possible."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range

MOST_STEPS = 10**8  # of the exact search: a minute or two


def partition(costs: Sequence[float], groups: int) -> list[int]:
    """Sizes of `groups` runs of neighbouring items, in order, whose largest sum of costs is minimal.

    Exact (dynamic programming, O(len(costs)**2 * groups)). Among the best, the one with the smallest sum of squared
    group costs, so that equal costs spread evenly: ten items in four groups give 3, 3, 2 and 2 in some order. Every
    group has at least one item. Equal costs that are too many for the exact search are divided evenly.

    Raises:
        InputError: a cost is negative or not finite, there are more groups than items, or unequal costs are too many.
    """
    check_range("groups", groups, FROM_ONE)
    if groups > len(costs):
        raise InputError(f"{len(costs)} items cannot fill {groups} groups: ask for at most {len(costs)}.")
    if any(not 0 <= cost < float("inf") for cost in costs):
        raise InputError(f"costs must be finite and not negative, not {list(costs)}.")
    if len(costs) ** 2 * groups > MOST_STEPS:
        return _many(costs, groups)
    ends = [0.0, *accumulate(costs)]
    largest = _best(ends, groups, limit=float("inf"), total=max)[0]
    scale = largest or 1.0  # squares of relative costs cannot overflow
    cuts = _best(ends, groups, limit=largest, total=lambda rest, cost: rest + (cost / scale) ** 2)[1]
    return [end - start for start, end in zip([0, *cuts], [*cuts, len(costs)], strict=True)]


def _many(costs: Sequence[float], groups: int) -> list[int]:
    if len(set(costs)) > 1:
        raise InputError(
            f"{len(costs)} items of unequal costs take too long to balance over {groups} groups: ask for fewer groups, "
            "or for an equal number of items in each."
        )
    size, larger = divmod(len(costs), groups)
    return [size] * (groups - larger) + [size + 1] * larger


def _best(
    ends: list[float], groups: int, limit: float, total: Callable[[float, float], float]
) -> tuple[float, list[int]]:
    """The lowest `total` over groups of cost at most `limit`, and the positions of its cuts.

    `row[j]` is the best for the first j items in the groups so far.
    """
    n = len(ends) - 1
    impossible: tuple[float, list[int]] = (float("inf"), [])
    nothing: tuple[float, list[int]] = (0.0, [])
    row = [nothing] + [impossible] * n
    for group in range(groups):
        previous, row = row, [impossible] * (n + 1)
        for j in range(group + 1, n + 1):
            for i in range(group, j):
                cost = ends[j] - ends[i]
                if cost <= limit:
                    value = total(previous[i][0], cost)
                    if value < row[j][0]:
                        row[j] = value, previous[i][1] + ([i] if i else [])
    return row[n]
