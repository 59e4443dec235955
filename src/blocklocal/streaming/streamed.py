"""A network of which one block is in memory at a time: the third walk over the pairs (block, step).

    step by step     for every step: for every block                            (`rules.local_step`)
    wavefront        every process its own blocks, as messages come             (`parallel.Stage`)
    block by block   for every chunk of N steps: for every block: its N steps   (here)

All three keep the one order that matters, so they end with the same weights, bit for bit (`network.walks`).
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input
from blocklocal._common.ranges import check_range
from blocklocal.block.edges import OPEN
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.block.schedules import Schedule, as_schedule
from blocklocal.network.assembly import start_rows
from blocklocal.network.network import BlockLocal
from blocklocal.network.saved import SavedNetwork
from blocklocal.splitting import Split
from blocklocal.streaming.cache import Cache, FileCache, MemoryCache
from blocklocal.streaming.chunks import Chunks
from blocklocal.streaming.deferred import Deferred
from blocklocal.streaming.homes import FileHome, Home, HostHome
from blocklocal.streaming.resting import tensors_by_name
from blocklocal.streaming.settings import BLOCKS, VISIT
from blocklocal.streaming.stock import Stock
from blocklocal.streaming.suitable import built, check_known, check_trained
from blocklocal.streaming.visits import Visits
from blocklocal.streaming.weights import export
from blocklocal.timeline.visits import VisitRecorder


class Streamed(Chunks):
    """A network whose blocks rest in files or in host memory; one at a time is fetched and takes N steps in a row.

    It takes the place of the network in a `Trainer`. The weights at the end are those of the ordinary network.

        def build():
            return BlockLocal(split(model(), blocks=24), classes=256, example=example)

        network = Streamed(build, visit=16, store="blocks")
        Trainer(network, optimizer=adamw(), epochs=1).fit(batches)

    Args:
        build: makes the whole network. It is called on torch's meta device, where tensors have no content.
        visit: N, the steps that a block takes in a row. Its weights are read and written once per N steps.
        store: a folder, or "ram" for host memory.
        cache: where the forward messages of N steps lie: "ram", or "files" (in the store's folder).
        weights: what the model starts from, by the names of its state_dict: a safetensors file, the index of several,
            or a folder with either. Of each block only its own tensors are read.
        device: where blocks compute.
        trains: False for a network that is only looked at: it predicts, is evaluated and exported. Any rule and any
            twin will do then.
        keep: complete chunks that stay in the store's folder; the one before the newest helps where that is damaged.
        most: blocks in memory at a time, at most: 3 (one computes, one is fetched, one is written back), 2 or 1.
        recorder: is told when blocks compute, are fetched and are written back.

    Raises:
        InputError: N is below 1; the rule's blocks wait for later ones; the messages of a chained twin must be there
            before N steps are over; the network does not know its shapes; its construction needs the content of
            tensors; the store holds other things.
    """

    def __init__(
        self,
        build: Callable[[], BlockLocal],
        *,
        visit: int = 16,
        store: Path | str | Literal["ram"] = "ram",
        cache: Literal["ram", "files"] = "ram",
        weights: Path | str | None = None,
        device: torch.device | str = "cpu",
        most: int = 3,
        trains: bool = True,
        keep: int = 1,
        recorder: VisitRecorder | None = None,
    ):
        check_range("visit", visit, VISIT)
        check_range("most", most, BLOCKS)
        with torch.device("meta"), Deferred() as made:
            network = built(build)
        check_known(network)
        if trains:
            check_trained(network, visit)
        made.adopt(network)
        made.keep(tensors_by_name(network).values())
        super().__init__(network.targets, network.learning, network.optimizer, network.seed)
        self.network, self.visit_steps, self.timeline = network, visit, recorder or VisitRecorder()
        self._trains = trains
        self._device = torch.device(device)
        for learner in network.learners:
            learner.optimizer = learner.schedule = None
        self._learners, self.edges = network._learners, OPEN
        self.register_buffer("rows", start_rows(self.learners, self.targets, self._device), persistent=False)
        home: Home = HostHome() if store == "ram" else FileHome(store, keep=keep)
        model, optimisation = network.split.model, self._optimisation
        self.stock = Stock(
            self.learners, model, made, home, weights=weights, device=self._device, optimisation=optimisation
        )
        self._cache: Cache = MemoryCache() if cache == "ram" else FileCache(None if store == "ram" else Path(store))
        self.visits = Visits(self.stock.fetch, lambda learner: self.home.put(learner), most=most, timed=self._timed)
        self._chained = any(twin is not None and twin.chained for twin in (each.twin for each in self.learners))
        self.watch = lambda text, ahead: None

    # --- the learners, which have no content here

    @property
    def count(self) -> int:
        return len(self.network.learners)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def split(self) -> Split:
        """How the network was cut; its modules have no content."""
        return self.network.split

    def materialize(self, example: Input) -> None:
        """Nothing: its shapes are known."""

    def to(self, *args: Any, **kwargs: Any) -> "Streamed":
        """Take a memory layout.

        Raises:
            InputError: for another device, which is given when it is made, or another type.
        """
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        if dtype is not None or device not in (None, self.device):
            raise InputError(
                f"a streamed network computes on {self.device}, in the type of its weights: give Streamed device=, and "
                "network.autocast(…) for another precision."
            )
        self.stock.layout = self.stock.layout if layout is None else layout
        return self

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and schedule, when it is fetched next."""
        optimisation = (as_optimizer(optimizer), as_schedule(schedule), steps)
        self.stock.configure(optimisation)
        self._optimisation = optimisation

    def begin_schedules(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.stock.restart()

    def rate(self) -> float | None:
        return self.stock.known.rate

    def keep_averages(self) -> None:
        """Whoever looks sees the running means from now on; the network is not trained any more."""
        self.stock.averaged = self.averaging = True

    @contextmanager
    def _swapped(self) -> Generator[None]:
        self.stock.averaged = True
        try:
            yield
        finally:
            self.stock.averaged = False

    def close(self) -> None:
        """End the training, so that another network may go on with what rests in the store."""
        self.home.close()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: it would be the whole network.

        Raises:
            InputError: always.
        """
        raise InputError("a streamed network is never whole in memory: keep it with blocklocal.save(network, folder).")

    # --- blocks come and go

    def _timed(self, kind: str, k: int) -> AbstractContextManager[None]:
        """The k-th block that is here is fetched, written back or waited for."""
        return self.timeline.span(kind, self.learners[k].index)

    def export(self, folder: Path | str) -> Path:
        """Write the user's model, trained, block by block: safetensors files by its own names, and their index.

        Args:
            folder: a new or empty folder.

        Returns:
            The path of the index, in the format of Hugging Face libraries.

        Raises:
            InputError: the folder holds other things.
            OSError: it cannot be written.
        """
        return export(self, self.split.model, Path(folder))

    def to_plain(self) -> nn.Module:
        """Refused: it would be the whole network.

        Raises:
            InputError: always.
        """
        raise InputError("a streamed network is never whole in memory: write its model with network.export(folder).")

    def take(self, saved: SavedNetwork) -> None:
        """Blocks rest in a checkpoint from now on. Nothing has changed where one of them cannot be read.

        To look at the network alone, without optimisers, blocks are read when they are needed.

        Args:
            saved: the checkpoint, in the store's own folder or elsewhere.

        Raises:
            InputError: it is damaged, or its optimisers are others; or the store holds other blocks already.
        """
        self.stock.take(saved, lambda: self.each(self.stock.note))
        self.steps = saved.step
