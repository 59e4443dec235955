"""What messages about a checkpoint advise: a run's is asked for in another way than what `save` has written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """Sentences at the end of messages.

    Attributes:
        older: for a damaged one with an older one beside it; `{0}` is the damaged one, `{1}` the older.
        anew: for a damaged one without.
        architecture: for one of another network.
        configure: for one whose optimisers are others than the network's; None where that can only be damage.
    """

    older: str
    anew: str
    architecture: str
    configure: str | None = None


OF_RUN = Advice(
    older="An older one is there: --checkpoint {1}.",
    anew="There is no older one: train anew.",
    architecture="Use the run's own config.json, and the version of blocklocal that trained it.",
)
OF_SAVED = Advice(
    older="Remove {0}, and the older one beside it, {1}, is loaded.",
    anew="There is no older one: save the network again, or take a copy of the folder.",
    architecture="Make the network as the saved one was made: the same model, cut, classes and settings.",
    configure="Configure it before you load as the saved one was: by a Trainer like the one that trained it, "
    "trainer.prepare(train), or by network.configure(optimizer, schedule, steps). Or load the weights alone: "
    "blocklocal.load(network, folder, optimizers=False).",
)
