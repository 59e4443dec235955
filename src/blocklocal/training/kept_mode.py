"""The mode of a network that is trained or evaluated, as it was found."""

from collections.abc import Generator
from contextlib import contextmanager

from blocklocal.network.neighbours import Neighbours


@contextmanager
def kept_mode(network: Neighbours, *, after_failure: bool = False) -> Generator[None, None, None]:
    """Put back the mode of the network and of every part of it afterwards, each its own, also after an error.

    Parts that are made meanwhile get the mode of the network.

    Args:
        after_failure: put back after an error alone.
    """
    mode, done = network.training, False
    modes = {part: part.training for part in network.modules()}
    try:
        yield
        done = True
    finally:
        if not (done and after_failure):
            network.train(mode)
            for part, own in modes.items():
                part.training = own
