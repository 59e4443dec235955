"""`blocklocal.load`: a network of a run, or what `save` has written."""

from pathlib import Path
from typing import overload

from blocklocal._common.errors import InputError
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.training.loop import Trainer
from blocklocal.training.saving import load as load_into


@overload
def load(
    network: Path | str, *, checkpoint: str | None = None, device: str | None = None, trust: bool = False
) -> BlockLocal: ...


@overload
def load(
    network: Neighbours, folder: Path | str, *, optimizers: bool = True, trainer: Trainer | None = None
) -> None: ...


def load(
    network: Neighbours | Path | str,
    folder: Path | str | None = None,
    *,
    optimizers: bool = True,
    trainer: Trainer | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> BlockLocal | None:
    """Load the network of a run, or what `save` has written into a network of the same cut and settings.

    Of a run (the folder that `blocklocal train` writes), its network as `blocklocal predict` has it: the best one where
    the run kept that (`--keep best`), else the newest; the mean of its weights where there is one (`--ema`).

        network = load("runs/digits")

    To predict by what `save` has written, or to train anew from these weights:

        load(network, folder, optimizers=False)

    To go on with steps of your own (`network.step`), bit for bit. What a `Trainer` had configured is, for example,
    `sgd()` with the schedule one-cycle over all steps:

        network.configure(sgd(), "one-cycle", epochs * len(train))
        load(network, folder)

    To go on with a `Trainer`, also in the middle of an epoch, save it too: `save(network, folder, trainer=trainer)`.
    Without `trainer=` a new one begins at its first epoch, with optimisers of its own.

        trainer = Trainer(network, epochs=10)      # as before
        trainer.prepare(train)
        load(network, folder, trainer=trainer)
        trainer.fit(train)

    That is the same as never having stopped, bit for bit, where the batches of an epoch are the same again, as those of
    `Batches` are.

    Args:
        network: a run's folder; or a network made like the saved one, with its shapes known; for its optimisers,
            configured alike (`configure`).
        folder: what was given to `save`.
        optimizers: whether to load optimisers, schedules and torch's random state too; else the network keeps its own.
        trainer: the network's, prepared, to go on from where the saved one stood.
        checkpoint: of a run: this one.
        device: of a run: auto, cpu or cuda; default: where it was trained.
        trust: of a run: the code of a model of its own may run.

    Returns:
        The network of a run; else None.

    Raises:
        InputError: nothing is saved there, it is damaged, it is of another network, its optimisers are configured
            otherwise, or the trainer cannot go on from it. Nothing is loaded then.
    """
    if not isinstance(network, str | Path):
        if folder is None:
            raise InputError("load takes a run's folder, or a network and the folder that was given to save.")
        load_into(network, folder, optimizers=optimizers, trainer=trainer)
        return None
    if folder is not None or trainer is not None or not optimizers:
        raise InputError("a run is loaded by its folder alone, load(RUN); to go on with it: blocklocal train --resume.")
    from blocklocal.runs.looking import load_network

    found = load_network(Path(network), checkpoint, device, trust=trust)[2]
    assert isinstance(found, BlockLocal)
    return found
