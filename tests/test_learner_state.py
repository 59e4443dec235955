"""Whatever a user's module keeps is in a checkpoint, or the module is refused before training.

Oracle: a network that goes on from a checkpoint ends where the undisturbed one does.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from run_helpers import assert_refused, cli, equal, train, weights
from torch import nn

from blocklocal import BlockLocal, InputError, split
from blocklocal.training.checkpoint import load_checkpoint, save_checkpoint
from blocklocal.training.learner_state import check_savable

pytestmark = pytest.mark.usefixtures("no_reports")

X, Y = torch.randn(4, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0])


class Layer(nn.Module):
    """A layer that `prepare` gives something to keep."""

    def __init__(self, prepare: Callable[[nn.Module], object]):
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 8))
        prepare(self)

    def forward(self, x):
        return x @ self.w.T


class Counted(nn.Linear):
    """Counts its calls in training, and keeps the number as extra state."""

    kept: object = 0

    def forward(self, x):
        if self.training and isinstance(self.kept, int):
            self.kept += 1
        return super().forward(x)

    def get_extra_state(self):
        return self.kept

    def set_extra_state(self, state):
        self.kept = state


def counted(kept: object) -> Counted:
    layer = Counted(8, 16)
    layer.kept = kept
    return layer


def network(layer: Callable[[], nn.Module]) -> BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(layer(), nn.ReLU(), nn.Linear(16, 3))
    return BlockLocal(split(model, blocks=2), classes=3, example=X, readout=0)


def buffer(value: Callable[[], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Layer(lambda layer: layer.register_buffer("held", value()))


def parameter(value: Callable[[], torch.Tensor], name: str = "held") -> Callable[[], nn.Module]:
    return lambda: Layer(lambda layer: setattr(layer, name, nn.Parameter(value())))


def views(layer: nn.Module) -> None:
    flat = torch.randn(256)
    layer.w, layer.held = nn.Parameter(flat[:128].view(16, 8)), nn.Parameter(flat[128:])


def hooked(layer: nn.Module) -> None:
    """Writes a version beside its weights, and takes it away again when they are loaded."""

    def add(module, state, prefix, *_):
        state[prefix + "version"] = "1.0"

    def remove(module, state, prefix, *_):
        assert state.pop(prefix + "version") == "1.0"

    layer.register_state_dict_post_hook(add)
    layer.register_load_state_dict_pre_hook(remove)


DTYPES = [torch.float16, torch.float64, torch.bfloat16, torch.complex64, torch.complex128, torch.int8, torch.bool]
KEPT = {
    "extra number": lambda: counted(0),
    "extra dictionary": lambda: counted({"a": [1, 2.5, "x", None], "t": torch.ones(2)}),
    "no extra state": lambda: counted(None),
    "tied": lambda: Layer(lambda layer: setattr(layer, "w2", layer.w)),
    "views of one tensor": lambda: Layer(views),
    "not contiguous": parameter(lambda: torch.randn(8, 16).T, "w"),
    "empty": parameter(lambda: torch.zeros(0, 3)),
    "one number": parameter(lambda: torch.tensor(1.0)),
    "complex": parameter(lambda: torch.ones(3, dtype=torch.complex64)),
    "sparse": buffer(lambda: torch.eye(3).to_sparse()),
    "sparse rows": buffer(lambda: torch.eye(3).to_sparse_csr()),
    "quantised": buffer(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
    "8-bit float": buffer(lambda: torch.ones(3).to(torch.float8_e4m3fn)),
    "hooks": lambda: Layer(hooked),
    **{f"buffer of {dtype}": buffer(partial(torch.ones, 3, dtype=dtype)) for dtype in DTYPES},
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of sparse and quantised tensors
@pytest.mark.parametrize("layer", KEPT.values(), ids=KEPT)
def test_a_network_goes_on_from_its_checkpoint_as_if_undisturbed(layer, tmp_path: Path):
    whole = network(layer)
    check_savable(whole.learners)
    whole.step(X, Y)
    checkpoint = save_checkpoint(tmp_path, whole, {"step": 1})
    resumed = network(layer)
    load_checkpoint(checkpoint, resumed)
    for net in (whole, resumed):
        net.step(X, Y)
    one, other = whole.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert all(_same(one[name], other[name]) for name in one)


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and (one.is_quantized or one.layout is not torch.strided):
        one, other = (t.dequantize() if t.is_quantized else t.to_dense() for t in (one, other))
    return equal(one, other)


def expanded(layer: nn.Module) -> None:
    layer.register_buffer("held", torch.zeros(1).expand(5))


def dropped(layer: nn.Module) -> None:
    def drop(module, state, prefix, *_):
        del state[prefix + "w"]

    layer.register_state_dict_post_hook(drop)


REFUSED = {
    "a date": (lambda: counted(datetime.date(2020, 1, 1)), "block 1.*Counted.get_extra_state.*UnpicklingError"),
    "a lock": (lambda: counted(threading.Lock()), "block 1.*Counted.get_extra_state"),
    "a buffer that is one number many times": (lambda: Layer(expanded), "block 1.*held.*single memory location"),
    "a weight that is left out": (lambda: Layer(dropped), "block 1.*Missing key.*block.0.w"),
}


@pytest.mark.parametrize(("layer", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_by_name_before_training(layer, message):
    with pytest.raises(InputError, match=message) as refused:
        check_savable(network(layer).learners)
    assert "\n" not in str(refused.value)


def test_the_check_leaves_weights_and_extra_state_as_they_are():
    net = network(lambda: counted(7))
    before = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in net.state_dict().items()
    }
    check_savable(net.learners)
    assert equal(before, dict(net.state_dict()))


FILE = """
from torch import nn
class Counted(nn.Linear):
    calls = {start}
    def forward(self, x):
        if self.training:
            self.calls += 1
        return super().forward(x)
    def get_extra_state(self):
        return {kept}
    def set_extra_state(self, state):
        self.calls = state["calls"]
def net(classes, channels, image_size, width):
    return nn.Sequential(nn.Flatten(), Counted(64, width), nn.ReLU(), nn.Linear(width, classes))
"""


def test_a_run_keeps_extra_state_with_its_weights_and_predicts_with_it(tmp_path: Path):
    (tmp_path / "net.py").write_text(FILE.format(start=0, kept='{"calls": self.calls}'))
    said = train(tmp_path, model=f"{tmp_path}/net.py:net", data="digits")
    assert said.status == 0, said.text
    assert any("_extra_state" in name for name in weights(tmp_path / "run"))
    assert cli("evaluate", tmp_path / "run", "--trust").status == 0


def test_a_run_of_a_module_that_cannot_be_kept_is_refused_before_it_starts(tmp_path: Path):
    (tmp_path / "net.py").write_text(FILE.format(start=0, kept='{"calls": Counted}'))
    said = train(tmp_path, model=f"{tmp_path}/net.py:net", data="digits")
    assert_refused(said, "Counted.get_extra_state", "checkpoint", folder=tmp_path)
