"""Whether a network can be trained with one block in memory at a time."""

from collections.abc import Callable

from blocklocal._common.errors import InputError, first_line
from blocklocal.network.network import BlockLocal
from blocklocal.rules import Rule


def built(build: Callable[[], BlockLocal]) -> BlockLocal:
    """The network that `build` makes on the meta device.

    Raises:
        InputError: it needs the content of tensors.
    """
    if isinstance(build, BlockLocal):
        raise InputError("build must be a function that makes the network, as lambda: BlockLocal(…), not a network.")
    try:
        return build()
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "build() cannot make the network on torch's meta device, where tensors have no content "
            f"({type(error).__name__}: {first_line(error)}): leave out what needs it, or train the network whole."
        ) from error


def check_known(network: object) -> None:
    """Refuse what is no `BlockLocal` that knows its shapes.

    Raises:
        InputError: as said.
    """
    if not isinstance(network, BlockLocal):
        raise InputError(f"build made {type(network).__name__}, and must make a BlockLocal.")
    if not network.learners:
        raise InputError("a streamed network must know its shapes: give BlockLocal example=, a batch [B, …].")


def check_rule(rule: Rule, scope: str) -> None:
    """Refuse a rule whose blocks wait for later ones.

    Raises:
        InputError: with the reason.
    """
    reason = rule.waits_because(scope)
    if reason is not None:
        raise InputError(f"one block at a time cannot train under the rule {rule.name}: {reason}.")


def check_trained(network: BlockLocal, visit: int) -> None:
    """Refuse what cannot be trained in visits of so many steps. To look at a network, nothing of this is needed.

    Raises:
        InputError: its rule's blocks wait for later ones; or the messages of a chained twin would have to be there
            earlier.
    """
    check_rule(network.rule, network.learning.scope)
    delay = network.learning.message_delay
    if any(learner.twin is not None and learner.twin.chained for learner in network.learners) and delay < visit:
        raise InputError(
            f"the twin {network.learning.twin} passes its messages from block to block, and a block that takes {visit} "
            f"steps in a row needs them {visit} steps before: give --message-delay {visit} or more (it is {delay}), "
            "a smaller visit, or the dense twin."
        )
