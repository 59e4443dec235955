"""The coverages for which conformal sets and intervals are kept with a run: every percent from a half on."""

import math

from blocklocal._common.errors import InputError

COVERAGES = tuple(percent / 100 for percent in range(50, 100))


def place_of(coverage: float) -> int:
    """Which of `COVERAGES` it is.

    Raises:
        InputError: it is none of them.
    """
    place = round(100 * coverage) - 50 if math.isfinite(coverage) else -1
    if not 0 <= place < len(COVERAGES) or abs(COVERAGES[place] - coverage) > 1e-9:
        raise InputError(f"a coverage is 0.50, 0.51, … or 0.99, not {coverage:g}.")
    return place


def too_few(samples: int, coverage: float) -> InputError:
    """What is said where so few samples leave nothing out."""
    needed = math.ceil(coverage / (1 - coverage) - 1e-9)
    return InputError(
        f"{samples} validation samples are too few for a coverage of {coverage:g}: at least {needed} are needed. Ask "
        "for a smaller one."
    )
