"""What a timeline says: spans, steps and sums; who recorded them (a segment), and what was begun together (a launch).

A segment is one process from a start to its end; every resume begins another one. The segments that the processes began
together are a launch.
"""

from dataclasses import dataclass, field

COMPUTE, WAIT, MESSAGE, SEND, FETCH, WRITE = "compute", "wait", "message", "send", "fetch", "write"
WAITS = {
    WAIT: "waits for the forward message",
    MESSAGE: "waits for the late backward message",
    SEND: "waits for room in the queue",
}
AHEAD = {FETCH: "the block is fetched", WRITE: "the block is written back"}
"""What is done in threads of their own while another block computes, where one block at a time is in memory."""
KINDS = (*WAITS, COMPUTE, *AHEAD)


@dataclass(frozen=True)
class Span:
    """What a process did for a while.

    Attributes:
        kind: "compute" (forward, local loss, backward and update of a block), or a wait: "wait" (for the forward
            message of the block before), "message" (for the late backward message of the block after) or "send" (for
            room in the queue to the block after). Where one block at a time is in memory: "compute", "fetch", "write"
            (it is written back), or "wait" (until the block is fetched or written back).
        block: counted from 0; None for a wait in one of several processes.
        begin, end: seconds since the start of the segment.
    """

    kind: str
    block: int | None
    begin: float
    end: float


@dataclass(frozen=True)
class Step:
    """One recorded step: its spans, in order of time.

    In a run in several processes they do not overlap. Where one block at a time is in memory, what is done once per
    visit stands in the first step of its chunk, and steps of a chunk overlap with each other.
    """

    step: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Totals:
    """Sums over all `steps` of a stretch, recorded or not, in seconds.

    `compute` has an entry per block; `fetch` and `write` too, where one block at a time is in memory.
    """

    epoch: int
    steps: int
    seconds: float
    wait: float
    message: float
    send: float
    compute: dict[int, float]
    fetch: dict[int, float] = field(default_factory=dict)
    write: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """One process from a start (Unix seconds) to its end or the next resume; blocks count from 0.

    Where one block at a time is in memory, `visit` is the number of steps that it takes in a row; else 0.
    """

    process: int
    replica: int
    stage: int
    blocks: tuple[int, ...]
    names: tuple[str, ...]
    host: str
    pid: int
    threads: int
    device: str
    start: float
    visit: int = 0
    steps: list[Step] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int, int, tuple[int, ...], int]:
        """What stays when a run is resumed in the same layout."""
        return self.process, self.replica, self.stage, self.blocks, self.visit

    @property
    def chunks(self) -> list[list[Step]]:
        """The recorded steps where one block at a time is in memory: a list per chunk, which begins with fetching."""
        found: list[list[Step]] = []
        for step in self.steps:
            if not found or any(span.kind == FETCH for span in step.spans):
                found.append([])
            found[-1].append(step)
        return found


@dataclass(frozen=True)
class Timeline:
    """All segments of a run, oldest first, and what was left out in reading them."""

    segments: list[Segment]
    warnings: list[str]

    @property
    def launches(self) -> list[list[Segment]]:
        """The segments begun together, oldest launch first, each in the order of processes.

        A new launch begins where a replica would have one of its blocks twice, or a process would be there twice: this
        holds for a run that is resumed in another number of processes too.
        """
        launches: list[list[Segment]] = []
        taken: set[tuple[object, int]] = set()
        for segment in self.segments:
            own: set[tuple[object, int]] = {(segment.replica, block) for block in segment.blocks}
            own.add(("process", segment.process))
            if not launches or own & taken:
                launches.append([])
                taken = set()
            launches[-1].append(segment)
            taken |= own
        return [sorted(launch, key=lambda segment: segment.process) for launch in launches]
