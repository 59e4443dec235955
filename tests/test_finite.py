"""_common/finite.py: the answer of torch's own isfinite, for every kind of value that is not finite, wherever it is."""

import pytest
import torch

from blocklocal._common.finite import is_finite

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_value_that_is_not_finite_is_seen(dtype: torch.dtype, bad: float, place: int) -> None:
    values = torch.linspace(-3, 3, 1001).to(dtype)
    assert is_finite(values)
    values[place] = bad
    assert not is_finite(values)


@pytest.mark.parametrize("values", [torch.empty(0, 3), torch.tensor(1.0), torch.tensor([3, -5]), torch.tensor([True])])
def test_empty_scalar_and_whole_numbers_are_finite(values: torch.Tensor) -> None:
    assert is_finite(values)


def test_the_largest_numbers_of_a_type_are_finite() -> None:
    for dtype in DTYPES[:4]:
        assert is_finite(torch.tensor([torch.finfo(dtype).min, torch.finfo(dtype).max], dtype=dtype))
