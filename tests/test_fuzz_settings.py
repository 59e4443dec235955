"""Random settings. Oracle: each is taken, or refused with an InputError; nothing else happens, and nothing hangs.

The default suite draws a few of them, always the same ones; the slow suite 2,000.
"""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocklocal import BlockLocal, InputError, Learning, Optimizer, Trainer, build_model, split
from blocklocal.block.schedules import SCHEDULES
from blocklocal.cli.arguments import CompareArguments, EvaluateArguments, TrainArguments, parse
from blocklocal.cli.diagnose import DiagnoseArguments
from blocklocal.cli.simulate_arguments import Measurement, SimulateArguments, Uniform
from blocklocal.parallel.launch import Launch
from blocklocal.runs.config import Config
from blocklocal.runs.settings import Data, Machine, Model, Optimisation
from blocklocal.simulate import SCHEDULES as PIPELINES
from blocklocal.simulate import BlockCosts, Link, simulate, uniform_costs
from experiments.runner import JobLaunch as Jobs

GROUPS = (Data, Model, Learning, Optimisation, Machine, Optimizer, Launch, Jobs, Uniform, Measurement, BlockCosts, Link)
FEW, MANY = 60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])


def fuzz(examples: int, test: Callable[..., None], *drawn: st.SearchStrategy) -> None:
    """Run a test on so many drawings, the same ones every time."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    chosen = settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks
    )
    chosen(given(*drawn)(test))()


EDGES = [0, -1, 1, 2, 3, 100, 1000, 1024, 1025, 10**6, 10**9, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**400, -(10**4000)]
FRACTIONS = [0.0, -0.0, 0.5, 0.999999, 1.0, 1.5, 1e-6, 1e-7, 1e-45, 5e-324, 1e6, 1e30, 1e38, 1e39, 1e300, 1.8e308]
WHOLE = st.sampled_from(EDGES) | st.integers()
NUMBER = WHOLE | st.sampled_from([*FRACTIONS, math.inf, -math.inf, math.nan]) | st.floats()
WORDS = [
    "",
    "digits",
    "sgd",
    "adamw",
    "cosine",
    "bernoulli",
    "chain",
    "mirrored",
    "frozen",
    "none",
    "\x1b[2J",
    "\udce9",
    "a" * 9,
]
TEXT = st.sampled_from(WORDS) | st.text(max_size=5)
ANYTHING = (
    st.none() | st.booleans() | NUMBER | TEXT | st.tuples(NUMBER) | st.lists(TEXT, max_size=2) | st.just({"a": "b"})
)


def values(kind: Any) -> st.SearchStrategy:
    """Mostly of the right type, and now and then of another."""
    wanted = {int: WHOLE, float: NUMBER, str: TEXT, bool: st.booleans()}
    own = [wanted[each] for each in (kind, *get_args(kind)) if each in wanted]
    return st.one_of(*own, *own, *own, ANYTHING) if own else ANYTHING


def arguments(kind: type, most: int = 4) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a dataclass's fields; all that have no default."""
    hints = get_type_hints(kind)
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    names = st.sets(st.sampled_from(sorted(hints)), max_size=most).map(lambda chosen: sorted({*chosen, *needed}))
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: values(hints[name]) for name in chosen}))


@pytest.mark.parametrize("examples", [FEW, MANY])
@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_a_setting_is_taken_or_refused_in_words(kind, examples):
    def check(chosen: dict[str, Any]) -> None:
        with contextlib.suppress(InputError):
            made = kind(**chosen)
            if kind in CONFIG:
                settings = json.loads(json.dumps(dataclasses.asdict(made), allow_nan=False))
                assert Config().edit(**{n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()})

    fuzz(examples, check, arguments(kind))


def test_a_number_too_long_to_be_written_is_refused_in_words():
    with pytest.raises(InputError, match=r"epochs must be .*, not a number of 5001 digits"):
        Optimisation(epochs=-(10**5000))


CONFIG = (Data, Model, Learning, Optimisation, Machine)
COMMAND_LINES = {
    TrainArguments: (*CONFIG, Launch),
    CompareArguments: (*CONFIG, CompareArguments),
    SimulateArguments: (Uniform, Measurement, SimulateArguments),
    DiagnoseArguments: (DiagnoseArguments,),
    EvaluateArguments: (EvaluateArguments,),
}


def lines(kind: type) -> st.SearchStrategy[list[str]]:
    """Up to four flags of a command, each with a value; what a flag is for is told by its type."""
    hints = {name: hint for group in COMMAND_LINES[kind] for name, hint in get_type_hints(group).items()}
    known = {name: {*get_args(hint), hint} & {int, float, str} for name, hint in hints.items()}
    known = {name: found.pop() for name, found in known.items() if found and name not in ("config", "recipe")}
    long = st.sampled_from(["9" * 5000, "1e" + "9" * 50, "-", "", "٣", "1_0", " 7"])
    flag = st.sampled_from(sorted(known)).flatmap(
        lambda name: (values(known[name]).map(str) | long).map(lambda value: f"--{name.replace('_', '-')}={value}")
    )
    return st.lists(flag, max_size=4)


@pytest.mark.parametrize("examples", [20, MANY])
@pytest.mark.parametrize("kind", COMMAND_LINES, ids=lambda kind: kind.__name__)
def test_a_command_line_is_taken_or_refused_in_words(kind, examples):
    def check(chosen: list[str]) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                parse(kind, [*(["run"] if "run" in get_type_hints(kind) else []), *chosen], "blocklocal")
        except SystemExit:  # tyro's; it has printed what is wrong
            assert said.getvalue()
        except InputError:
            pass

    fuzz(examples, check, lines(kind))


LEARNING = ("temperature", "rectified_temperature", "label_smoothing", "reconstruction", "similarity", "tau", "readout")
DRAWN = {
    name: st.sampled_from([x for x in (*EDGES[:6], *FRACTIONS) if x <= 10]) | st.floats(0, 1e6) for name in LEARNING
}
NAMES = {
    "family": st.sampled_from(["rectified", "gaussian", "bernoulli"]),
    "objective": st.sampled_from(["evidence", "variational"]),
    "twin": st.sampled_from(["dense", "chain", "mirrored"]),
    "rule": st.sampled_from(["block-local", "backprop", "greedy", "direct-feedback-alignment"]),
}
RATES = {name: st.sampled_from(FRACTIONS) | st.floats(0, 1e6) for name in ("lr", "momentum", "weight_decay", "clip")}


@pytest.mark.parametrize("examples", [40, MANY])
def test_what_is_taken_trains_or_says_why_not(examples):
    x, y = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2

    def check(learning: dict[str, Any], rates: dict[str, Any], optimizer: str, schedule: str) -> None:
        with contextlib.suppress(InputError):
            recipe = Optimizer(optimizer, **rates)
            model = build_model("mlp", classes=2, channels=1, image_size=(2, 2), width=4)
            network = BlockLocal(split(model, 3), classes=2, learning=Learning(**learning))
            records = Trainer(network, optimizer=recipe, epochs=2, schedule=schedule).fit([(x, y)] * 2)
            assert all(loss is None or math.isfinite(loss) for record in records for loss in record["loss"])

    some = st.fixed_dictionaries({}, optional={**DRAWN, **NAMES})
    rates = st.fixed_dictionaries({}, optional=RATES)
    fuzz(examples, check, some, rates, st.sampled_from(["sgd", "adam", "adamw"]), st.sampled_from(SCHEDULES))


@pytest.mark.parametrize("examples", [30, MANY])
def test_a_simulation_ends_with_finite_figures_or_says_why_not(examples):
    seconds = st.sampled_from([0, 1, *FRACTIONS]) | st.floats(0, 1e20)
    small = st.integers(1, 9) | st.sampled_from(EDGES)
    costs = st.fixed_dictionaries({}, optional=dict.fromkeys(("forward", "backward_input", "message_bytes"), seconds))
    link = st.fixed_dictionaries({}, optional={"bandwidth": seconds, "latency": seconds})

    def check(name: str, devices: int, micro: int, depth: int, costs: dict[str, Any], link: dict[str, Any]) -> None:
        if all(isinstance(n, int) and 1000 <= n <= 2**20 for n in (devices, micro, depth)):
            return  # allowed, and seconds each
        with contextlib.suppress(InputError):
            made = uniform_costs(devices, **costs)
            result = simulate(name, made, devices, micro, link=Link(**link), depth=depth)
            assert 0 < result.step_seconds < math.inf
            assert 0 <= result.idle_share <= 1
            assert math.isfinite(result.batches_per_second)

    fuzz(examples, check, st.sampled_from(PIPELINES.names()), small, small, small, costs, link)
