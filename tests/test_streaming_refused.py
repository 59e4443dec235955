"""What cannot be trained block by block is refused, with what was given, what is expected, and nothing lost."""

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streaming_helpers as st
import torch
from torch import Tensor, nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.streaming.streamed import Streamed
from blocklocal.training.checkpoint_folder import list_checkpoints

pytestmark = pytest.mark.usefixtures("quick_disk")
build = st.made(st.dense)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(store: Path, make: st.Build = build) -> Streamed:
    network = Streamed(make, visit=2, store=store)
    network.configure(bl.adamw(lr=0.01), "constant", 4)
    for _ in network.walk(st.batches(2)):
        pass
    return network


@pytest.mark.parametrize("visit", [0, -1, 1.5, "4", None, True])
def test_a_visit_of_no_whole_number_of_steps_is_refused(visit: Any) -> None:
    with pytest.raises(InputError, match="visit"):
        Streamed(build, visit=visit)


@pytest.mark.parametrize("most", [0, 4, "2"])
def test_one_two_or_three_blocks_are_in_memory(most: Any) -> None:
    with pytest.raises(InputError, match="most"):
        Streamed(build, most=most)


WAITING = {
    **{name: {"rule": name} for name in bl.RULES if bl.RULES.get(name).waits_because("local") is not None},
    "the scope neighbour": {"scope": "neighbour"},
}


@pytest.mark.parametrize("kind", WAITING)
def test_a_rule_whose_blocks_wait_for_later_ones_is_refused_with_its_reason(kind: str) -> None:
    settings = WAITING[kind]
    rule = bl.RULES.get(settings.get("rule", "block-local"))
    reason = rule.waits_because(settings.get("scope", "local"))
    assert reason is not None
    with pytest.raises(InputError, match=re.escape(reason)):
        Streamed(st.made(st.dense, **settings))


@pytest.mark.parametrize("delay", [0, 3])
def test_a_chained_twin_needs_messages_as_late_as_a_visit_is_long(delay: int) -> None:
    settings = {"twin": "chain", "message_delay": delay}
    with pytest.raises(InputError, match=rf"message-delay 4 or more \(it is {delay}\)"):
        Streamed(st.made(st.dense, **settings), visit=4)
    if delay:
        Streamed(st.made(st.dense, **settings), visit=delay)


def test_a_chained_twin_without_hidden_blocks_needs_no_delay() -> None:
    Streamed(st.made(st.dense, 1, twin="chain"), visit=4)


@pytest.mark.parametrize("made", [None, nn.Linear(2, 2), 3])
def test_what_builds_something_else_is_refused(made: Any) -> None:
    with pytest.raises(InputError, match=rf"{type(made).__name__}(.|\n)*BlockLocal"):
        Streamed(lambda: made)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InputError, match="build"):
        Streamed(build())  # type: ignore[arg-type]


def test_a_network_without_shapes_is_refused() -> None:
    with pytest.raises(InputError, match="example="):
        Streamed(lambda: bl.BlockLocal(bl.split(st.dense(), blocks=2), classes=st.CLASSES))


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


def test_a_network_that_needs_values_to_be_built_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"meta"):
        Streamed(st.made(lambda: nn.Sequential(nn.Linear(st.FEATURES, 4), Numpy(), nn.Linear(4, st.CLASSES)), 2))


def test_a_network_that_is_built_with_content_all_the_same_is_trained_as_the_ordinary_one() -> None:
    def on_cpu() -> bl.BlockLocal:
        with torch.device("cpu"):
            return build()

    whole, network = build(), Streamed(on_cpu, visit=2)
    assert all(tensor.is_meta for tensor in network.learners[0].parameters())
    st.trained(whole, st.batches())
    st.trained(network, st.batches())
    st.assert_same_network(whole, network)


def test_an_error_of_the_users_own_is_not_hidden() -> None:
    def wrong() -> bl.BlockLocal:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Streamed(wrong)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("letter")
    with pytest.raises(InputError, match="is a file"):
        Streamed(build, store=tmp_path / "store")
    assert (tmp_path / "store").read_text() == "letter"


def test_a_store_that_holds_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="other things"):
        Streamed(build, store=tmp_path)
    assert content(tmp_path) == {"letter.txt": b"dear"}


def test_blocks_of_an_earlier_run_are_never_overwritten_by_a_network_that_has_not_loaded_them(tmp_path: Path) -> None:
    trained(tmp_path / "store").close()
    before = content(tmp_path / "store")
    with pytest.raises(InputError, match=r"holds blocks already(.|\n)*load"):
        trained(tmp_path / "store")
    assert content(tmp_path / "store") == before


def looks(folder: Path) -> dict[str, Callable[[Streamed], object]]:
    """All that is asked of a network without training it."""
    x, data = st.batches(1)[0][0], st.batches()
    return {
        "predict": lambda network: network.predict(x),
        "evaluate": lambda network: list(network.look(data)),
        "export": lambda network: network.export(folder / "exported"),
        "save": lambda network: bl.save(network, folder / "saved"),
    }


@pytest.mark.parametrize("look", ["predict", "evaluate", "export", "save"])
def test_a_network_over_older_blocks_says_nothing_until_they_are_loaded(look: str, tmp_path: Path) -> None:
    """It would have the weights of the start, where everybody expects those of the folder."""
    trained(tmp_path / "store").close()
    before = content(tmp_path / "store")
    network, ask = Streamed(build, visit=2, store=tmp_path / "store"), looks(tmp_path)[look]
    with pytest.raises(InputError, match=r"holds blocks already(.|\n)*blocklocal.load(.|\n)*new folder"):
        ask(network)
    assert content(tmp_path / "store") == before
    bl.load(network, tmp_path / "store", optimizers=False)
    ask(network)


@pytest.mark.parametrize("look", ["predict", "evaluate", "export", "save"])
@pytest.mark.parametrize("store", ["ram", "files"])
def test_a_network_in_a_new_store_says_what_the_ordinary_one_says_before_training(
    look: str, store: str, tmp_path: Path
) -> None:
    looks(tmp_path)[look](Streamed(build, visit=2, store="ram" if store == "ram" else tmp_path / "store"))


def test_a_network_made_to_be_looked_at_trains_no_step() -> None:
    network = Streamed(build, visit=2, trains=False)
    before = network.predict(st.batches(1)[0][0]).probabilities
    with pytest.raises(InputError, match="trains=False"):
        network.step(*st.batches(1)[0])
    assert torch.equal(network.predict(st.batches(1)[0][0]).probabilities, before)


def test_blocks_of_another_model_are_refused_and_stay(tmp_path: Path) -> None:
    trained(tmp_path / "store", st.made(st.dense, 2)).close()
    before = content(tmp_path / "store")
    network = Streamed(build, store=tmp_path / "store")
    with pytest.raises(InputError, match="holds 2 blocks, the network has 3"):
        bl.load(network, tmp_path / "store")
    other = Streamed(st.made(st.dense, readout=1), store=tmp_path / "store")
    trained(tmp_path / "three").close()
    with pytest.raises(InputError, match="another architecture"):
        bl.load(other, tmp_path / "three")
    assert content(tmp_path / "store") == before


def test_an_optimiser_of_another_kind_does_not_go_on(tmp_path: Path) -> None:
    trained(tmp_path / "store").close()
    network = Streamed(build, visit=2, store=tmp_path / "store")
    network.configure(bl.sgd(lr=0.1), "constant", 4)
    with pytest.raises(InputError, match=r"block 1 (.|\n)*another optimiser"):
        bl.load(network, tmp_path / "store")
    network.configure(bl.adamw(lr=0.01), "constant", 4)
    bl.load(network, tmp_path / "store")
    assert network.steps == 2


def test_two_networks_do_not_train_on_one_store(tmp_path: Path) -> None:
    one = trained(tmp_path / "store")
    two = Streamed(build, visit=2, store=tmp_path / "store")
    two.configure(bl.adamw(lr=0.01), "constant", 4)
    bl.load(two, tmp_path / "store")  # to look is allowed
    assert two.predict(st.batches(1)[0][0]).label.tolist() == one.predict(st.batches(1)[0][0]).label.tolist()
    before = content(tmp_path / "store")
    with pytest.raises(InputError, match=r"another network trains on the blocks(.|\n)*close"):
        two.step(*st.batches(1)[0])
    assert content(tmp_path / "store") == before
    one.step(*st.batches(1)[0])
    one.close()
    with pytest.raises(InputError, match="holds blocks already"):  # they have gone on meanwhile
        two.step(*st.batches(1)[0])
    bl.load(two, tmp_path / "store")
    assert two.steps == 3
    two.step(*st.batches(1)[0])
    assert two.steps == 4


def test_a_network_that_nobody_uses_any_more_lets_go_of_its_store(tmp_path: Path) -> None:
    gc.disable()
    try:
        trained(tmp_path / "store")
        two = Streamed(build, visit=2, store=tmp_path / "store")
        two.configure(bl.adamw(lr=0.01), "constant", 4)
        bl.load(two, tmp_path / "store")
        two.step(*st.batches(1)[0])
    finally:
        gc.enable()
    assert list_checkpoints(tmp_path / "store")[-1].name == "step-00000003"


def test_a_network_that_was_closed_trains_no_more(tmp_path: Path) -> None:
    network = trained(tmp_path / "store")
    network.close()
    with pytest.raises(InputError, match="was closed"):
        network.step(*st.batches(1)[0])


def test_a_network_is_not_saved_into_the_store_in_which_it_rests(tmp_path: Path) -> None:
    network = trained(tmp_path / "store")
    before = content(tmp_path / "store")
    with pytest.raises(InputError, match="another folder"):
        bl.save(network, tmp_path / "store")
    assert content(tmp_path / "store") == before
    bl.save(network, tmp_path / "saved")
    network.step(*st.batches(1)[0])


def test_the_whole_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never whole"):
        Streamed(build).state_dict()


def test_a_batch_that_cannot_be_right_changes_nothing(tmp_path: Path) -> None:
    network, (x, y) = trained(tmp_path / "store"), st.batches(1)[0]
    before = content(tmp_path / "store")
    for bad in ((x[:, :3], y), (x, y + st.CLASSES), (x * float("nan"), y), (x[:2], y)):
        with pytest.raises(InputError):
            list(network.walk([(x, y), bad]))
        assert network.steps == 2
    assert content(tmp_path / "store") == before
    network.step(x, y)


def test_a_loss_that_is_not_finite_leaves_the_last_commit(tmp_path: Path) -> None:
    network = Streamed(build, visit=2, store=tmp_path / "store")
    network.configure(bl.sgd(lr=1e6), "constant", 4)
    kept: list[tuple[int, dict[str, bytes]]] = []

    def train() -> None:
        for _ in range(30):
            kept.append((network.steps, content(tmp_path / "store")))
            list(network.walk(st.batches(2)))

    with pytest.raises(InputError, match=r"not finite|became"):
        train()
    assert kept[-1] == (network.steps, content(tmp_path / "store"))
