"""Whether a network can be trained with one block in memory at a time."""

from collections.abc import Callable

from blocklocal._common.errors import InputError, first_line
from blocklocal.network.network import BlockLocal


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


def check_streamed(network: object, visit: int) -> None:
    """Refuse what cannot be trained in visits of so many steps.

    Raises:
        InputError: it is no `BlockLocal` that knows its shapes; its rule's blocks wait for later ones; or the messages
            of a chained twin would have to be there earlier.
    """
    if not isinstance(network, BlockLocal):
        raise InputError(f"build made {type(network).__name__}, and must make a BlockLocal.")
    if not network.learners:
        raise InputError("a streamed network must know its shapes: give BlockLocal example=, a batch [B, …].")
    reason = network.rule.waits_because(network.learning.scope)
    if reason is not None:
        raise InputError(f"one block at a time cannot train under the rule {network.rule.name}: {reason}.")
    delay = network.learning.message_delay
    if any(learner.twin is not None and learner.twin.chained for learner in network.learners) and delay < visit:
        raise InputError(
            f"the twin {network.learning.twin} passes its messages from block to block, and a block that takes {visit} "
            f"steps in a row needs them {visit} steps before: give --message-delay {visit} or more (it is {delay}), "
            "a smaller visit, or the dense twin."
        )
