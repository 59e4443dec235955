"""What guides a balanced split: the partition, the costs of units, and the bytes that autograd keeps."""

import copy
from itertools import combinations, pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting_helpers import compose
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.memory import saved_bytes
from blocklocal.splitting import partition, piece_costs

torch.set_num_threads(1)


class TestPartition:
    @settings(deadline=None, max_examples=80)
    @given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
    def test_largest_group_is_as_small_as_brute_force_finds(self, costs, data):
        groups = data.draw(st.integers(1, len(costs)))
        sizes = partition(costs, groups)
        assert len(sizes) == groups
        assert sum(sizes) == len(costs)
        assert min(sizes) >= 1

        def sums(cuts):
            return [sum(costs[a:b]) for a, b in pairwise([0, *cuts, len(costs)])]

        best = min(max(sums(cuts)) for cuts in combinations(range(1, len(costs)), groups - 1))
        starts = [sum(sizes[:k]) for k in range(1, groups)]
        assert max(sums(starts)) == best

    @settings(deadline=None)
    @given(st.integers(1, 30), st.integers(1, 30))
    def test_equal_costs_spread_evenly(self, items, groups):
        if groups <= items:
            sizes = partition([1.0] * items, groups)
            assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize(
        ("costs", "groups"), [([1.0], 2), ([], 1), ([1.0, -1.0], 2), ([float("nan")], 1), ([1.0, 2.0], 0)]
    )
    def test_impossible_requests_are_refused(self, costs, groups):
        with pytest.raises(InputError):
            partition(costs, groups)

    def test_costs_of_any_size_do_not_overflow(self):
        assert partition([1e300, 1e300, 1e-300], 2) == [1, 2]


class TestCosts:
    def test_flops_of_a_linear_layer_are_counted_forward_and_backward(self):
        forward = 2 * 5 * 3 * 7
        assert piece_costs([nn.Linear(3, 7)], torch.randn(5, 3), "flops") == [3 * forward]

    def test_flops_of_attention_on_the_cpu_are_not_zero(self):  # pytorch#195460
        class Attention(nn.Module):
            def forward(self, x):
                return F.scaled_dot_product_attention(x, x, x)

        x = torch.randn(2, 4, 8, 16)  # batch, heads, positions, features
        product = 2 * 2 * 4 * 8 * 8 * 16
        (flops,) = piece_costs([Attention()], x, "flops")
        assert flops == 2 * product + 5 * product  # two products forward, five backward

    def test_bytes_are_those_autograd_keeps(self):
        # Linear keeps its input; ReLU its output, which the next Linear keeps too: one storage.
        unit = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
        assert piece_costs([unit], torch.randn(8, 10), "bytes") == [4 * 8 * (10 + 20)]

    def test_time_is_positive(self):
        assert all(seconds > 0 for seconds in piece_costs([nn.Linear(3, 3), nn.ReLU()], torch.randn(4, 3), "time"))

    @pytest.mark.parametrize("kind", ["time", "flops", "bytes"])
    def test_measuring_leaves_no_trace(self, kind):
        model = nn.Sequential(
            nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(3, 2)
        )
        model[0].weight.grad = torch.ones(3, 3)
        model.eval()
        state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        kept = x.clone()
        with torch.no_grad():
            piece_costs([model[:2], model[2:]], x, kind)
        assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(x, kept)
        assert torch.equal(model[0].weight.grad, torch.ones(3, 3))
        assert model[4].weight.grad is None
        assert not any(m.training for m in model.modules())

    def test_unknown_kind_suggests_the_nearest(self):
        with pytest.raises(InputError, match="Did you mean 'bytes'"):
            piece_costs([nn.Linear(2, 2)], torch.zeros(1, 2), "byte")


class TestSavedBytes:
    def test_views_of_one_storage_count_once(self):
        x = torch.randn(4, 6, requires_grad=True)
        y = x * 1
        with saved_bytes() as kept:
            z = (y.view(24) ** 2).sum() + (y.t() ** 2).sum()
        assert kept.live == kept.peak == 24 * 4
        del z
        assert kept.live == 0

    def test_freeing_the_graph_of_each_block_lowers_the_peak_to_one_block(self):
        layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4)]
        x = torch.randn(32, 16)
        with saved_bytes(*layers) as whole:
            compose(layers, x).sum().backward()
        with saved_bytes(*layers) as local:
            a = x
            for layer in layers:
                a = layer(a.detach())
                a.sum().backward()
        one = 32 * 16 * 4
        assert whole.peak == 5 * one  # the input and four outputs
        assert local.peak == 2 * one
        assert whole.live == local.live == 0

    def test_parameters_and_buffers_do_not_count(self):
        model = nn.Linear(8, 8)
        x = torch.randn(2, 8, requires_grad=True)
        with saved_bytes(model) as kept:
            y = model(x)
        assert kept.peak == x.nbytes
        with saved_bytes() as all_of_it:
            z = model(x)
        assert all_of_it.peak == x.nbytes + model.weight.nbytes
        del y, z

    def test_gradients_are_the_same_under_the_count(self):
        x = torch.randn(5, requires_grad=True)
        expected = torch.autograd.grad(x.exp().sin().sum(), x)[0]
        with saved_bytes():
            y = x.exp().sin().sum()
        assert torch.equal(torch.autograd.grad(y, x)[0], expected)
