"""A network of which one block is in memory at a time: the third walk over the pairs (block, step).

    step by step     for every step: for every block                            (`rules.local_step`)
    wavefront        every process its own blocks, as messages come             (`parallel.Stage`)
    block by block   for every chunk of N steps: for every block: its N steps   (here)

All three keep the one order that matters, so they end with the same weights, bit for bit (`network.walks`).
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input
from blocklocal._common.ranges import check_range
from blocklocal.block.edges import OPEN
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.block.schedules import Schedule, as_schedule
from blocklocal.block.step import StepContext
from blocklocal.block.target import Asked, Wanted, with_weight
from blocklocal.block.targets import target_rows
from blocklocal.network.edge import taking_gradients
from blocklocal.network.neighbours import Stepped
from blocklocal.network.network import BlockLocal
from blocklocal.network.saved import SavedNetwork
from blocklocal.network.updates import with_updates
from blocklocal.rules.base import Batch
from blocklocal.splitting import Split
from blocklocal.streaming.cache import Cache, FileCache, MemoryCache
from blocklocal.streaming.deferred import Deferred
from blocklocal.streaming.homes import FileHome, Home, HostHome
from blocklocal.streaming.looking import Looking
from blocklocal.streaming.resting import tensors_of
from blocklocal.streaming.settings import BLOCKS, VISIT
from blocklocal.streaming.stock import Known, Stock
from blocklocal.streaming.suitable import built, check_known, check_trained
from blocklocal.streaming.visits import Visits
from blocklocal.streaming.weights import export
from blocklocal.timeline.segments import COMPUTE
from blocklocal.timeline.visits import VisitRecorder
from blocklocal.training.tally import check_weights

log = logging.getLogger("blocklocal")
TORN = (
    "training ended within a chunk of steps, and what rests in host memory cannot be put back: some blocks have taken "
    "these steps, and others have not. Load what was saved last before you go on: blocklocal.load(network, folder), or "
    "blocklocal train --resume RUN."
)


class Streamed(Looking):
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
        made.keep(tensors_of(network).values())
        super().__init__(network.targets, network.learning, network.optimizer, network.seed)
        self.network, self.visit_steps, self.timeline = network, visit, recorder or VisitRecorder()
        self._trains = trains
        self._device = torch.device(device)
        for learner in network.learners:
            learner.optimizer = learner.schedule = None
        self._learners, self.edges = network._learners, OPEN
        self.register_buffer("_rows", target_rows(self.targets, self._device), persistent=False)
        home: Home = HostHome() if store == "ram" else FileHome(store, keep=keep)
        model, optimisation = network.split.model, self._optimisation
        self.stock = Stock(
            self.learners, model, made, home, weights=weights, device=self._device, optimisation=optimisation
        )
        self._cache: Cache = MemoryCache() if cache == "ram" else FileCache(None if store == "ram" else Path(store))
        self.visits = Visits(self.stock.fetch, lambda learner: self.home.put(learner), most=most, timed=self._timed)
        self._chained = any(twin is not None and twin.chained for twin in (each.twin for each in self.learners))
        self._uncommitted = False  # whether blocks have taken the steps of a chunk that does not count yet
        self.watch: Callable[[str, float], object] = lambda text, ahead: None  # told what is done now: `Progress.work`

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

    # --- training

    @taking_gradients()
    def step(
        self, x: Input, y: Wanted, weight: Tensor | None = None, *, update: bool = True
    ) -> list[LocalResult | None]:
        """One training step, which reads and writes all blocks: `walk` does it once per N steps.

        Raises:
            InputError: without an update, whose gradients no block could keep while it rests.
        """
        if not update or self.accumulate > 1:
            raise InputError(
                "a streamed network adds gradients up within a chunk of steps alone: train it by Trainer(network, "
                "accumulate=…), or give step larger batches."
            )
        (stepped,) = self.walk([(x, with_weight(y, weight))])
        return stepped.results

    def walk(self, batches: Iterable[tuple[Input, Asked]]) -> Iterator[Stepped]:
        """Train on batches, block by block: for every N of them, for every block.

        A chunk counts when it is committed: after its last step by who takes the steps, or else before the next chunk.
        Where that fails, or the walk ends within the steps of a chunk, the network is as after the last commit. In host
        memory, which would have to hold all blocks twice, a chunk cannot be undone: where it fails, some blocks have
        taken its steps and others have not, and a warning says so; where the walk ends, the network is as after it.

        Args:
            batches: (x, y).

        Raises:
            InputError: as `step`.
        """
        if not self._trains:
            raise InputError("this network was made to be looked at (trains=False): make one anew to train it.")
        if self.visit_steps % self.accumulate:
            raise InputError(
                f"{self.visit_steps} steps in a row are no whole number of updates after {self.accumulate} steps each: "
                f"give a visit of {self.accumulate * max(1, self.visit_steps // self.accumulate)}."
            )
        self.check_trainable()
        coming = iter(batches)
        self.timeline.begin()
        while chunk := [self.check(x, y) for x, y in islice(coming, self.visit_steps)]:
            if not self.training:
                self.train()
            before = self.steps, self.stock.known
            results = self._chunk(chunk)
            try:
                for t, (_, y) in enumerate(chunk):
                    self.steps += 1
                    self.after_step()
                    yield Stepped(y, [each[t] for each in results], whole=t == len(chunk) - 1)
                if self._uncommitted:
                    self.commit(self._own_state)
            except BaseException as error:
                undone = not self._uncommitted or self._given_up(before)
                if not undone and isinstance(error, GeneratorExit):  # in host memory, where the chunk cannot be undone
                    self.steps = before[0] + len(chunk)
                    self.commit(self._own_state)
                raise
        self.timeline.totals(self.epoch + 1)

    @taking_gradients()
    def _chunk(self, batches: list[tuple[Input, Asked]]) -> list[list[LocalResult | None]]:
        """Every block's steps in a row; per block, the results of the steps."""
        self.begin()
        for x, y in batches:
            self.prepare(x, y)
        self.expect([len(y) for _, y in batches], training=True)
        self.know_late()
        self.home.begin(self.steps + len(batches))
        before = self.steps, self.stock.known
        late = self.stock.known.late  # as all twins stood at the start of the chunk

        take_step = self.rule.step_function(self.learning.scope)

        def train(learner: BlockLearner) -> list[LocalResult | None]:
            results = []
            for (t, (x, y)), update in with_updates(enumerate(batches), self.accumulate):
                learner.holds = not update
                edges = self._edges(learner, t, self._message(late, learner.index, t))
                context = StepContext(self.stream, self.steps + t, mixing(self.learning.tau, self.epoch))
                with self.timeline.span(COMPUTE, learner.index, t):
                    (result,) = take_step([learner], Batch(x, y, self._rows, context, edges))
                place = learner.index - self.learners[0].index
                done = (place * len(batches) + t + 1) / len(self.learners)
                self.watch(f"block {learner.index + 1} of {self.count}, step {self.steps + t + 1}", done)
                results.append(None if result is None else result.counted(self.targets, y))
            check_weights(learner, self.steps + len(batches))
            self.stock.note(learner)
            return results

        try:
            with self.timeline.chunk(self.steps + 1, len(batches)):
                results = self.visits.run(self.stock.places, train, writes=True)
        except BaseException:
            if not self._given_up(before) and before[1].resting:
                log.warning(TORN)
            raise
        self._uncommitted = True
        return results

    def _given_up(self, before: tuple[int, Known]) -> bool:
        """Whether the network is again as before the chunk."""
        self._cache.clear()
        self._uncommitted = False
        undone = self.home.discard()
        if undone:
            self.steps, self.stock.known = before
        return undone

    def commit(self, state: Callable[[], dict[str, Any]]) -> None:
        self.stock.commit(state)
        self._uncommitted = False
        self.home.tidy()  # after the chunk counts: an error here takes nothing back

    def _own_state(self) -> dict[str, Any]:
        return {"step": self.steps, "network_epoch": self.epoch}
