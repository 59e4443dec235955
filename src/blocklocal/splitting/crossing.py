"""What crosses a cut: of all that was made before, what is read afterwards.

A cut lies behind one call of a module. Of the calls that are over by then, the outermost ones are *hollow* in the block
that begins there: they are not run again. What the forward does between calls is run again; it is cheap, and its
numbers, sizes and decisions come out as they should. So what must cross is what hollow calls gave and what, directly or
through operations between calls, is read later.
"""

from dataclasses import dataclass, field

from blocklocal.splitting.tape import Call, Leaf, Operation, Tape


@dataclass
class Crossing:
    """Of one cut.

    Attributes:
        hollow: indices of the calls that are not run again.
        again: calls that are: they use no weights, and nothing that depends on any, such as rotary positions.
        carried: the storages that must be handed on, in the order in which they were made.
        inputs: names of the network's inputs whose values are read again.
        weights: names of weights that the forward itself reads again.
        lost: paths of calls that keep a value on the side, where no message can take it from.
    """

    hollow: list[int]
    again: set[int] = field(default_factory=set)
    carried: list[int] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)


class Analysis:
    """Questions to a tape.

    Args:
        weightless: paths of modules that hold no weights.
    """

    def __init__(self, tape: Tape, weightless: set[str]):
        self.tape, self.weightless = tape, weightless

    def crossing(self, time: int) -> Crossing:
        """What crosses at that time, the end of a call."""
        calls, values, operations = self.tape.calls, self.tape.values, self.tape.operations
        over = [i for i, c in enumerate(calls) if 0 <= c.leave <= time]
        done = set(over)
        outer = [i for i in over if not done.intersection(calls[i].parents)]
        found = Crossing(outer)
        given = {leaf.place for i in outer for leaf in leaves(calls[i])}
        wanted = [v for operation in operations if operation.time > time for v in operation.reads] + self.tape.results
        for operation in self._decided(time, done):
            wanted.extend(operation.reads)
            found.weights.update(self._weights(operation))
        seen: set[int] = set()
        while wanted:
            v = wanted.pop()
            value = values[v]
            if v in seen or value.born > time:
                continue
            seen.add(v)
            if value.operation is None:
                kind, _, name = value.source.partition(" ")
                if kind == "input":
                    found.inputs.add(name)
                continue
            operation = operations[value.operation]
            maker = self._maker(operation, done)
            if maker is None or maker in found.again:
                wanted.extend(operation.reads)
                found.weights.update(self._weights(operation))
            elif not value.learned and calls[maker].path in self.weightless:
                found.again.add(maker)
                inner = [s for s in operations if maker in s.calls and s.decides]
                wanted.extend([*operation.reads, *(r for s in inner for r in s.reads)])
            elif value.place in given:
                found.carried.append(value.place)
            else:
                found.lost.append(calls[maker].path)
        found.hollow = [i for i in outer if i not in found.again]
        born = {value.place: v for v, value in enumerate(values)}
        found.carried = sorted(set(found.carried), key=born.__getitem__)
        return found

    def learned(self, place: int) -> bool:
        return any(value.learned for value in self.tape.values if value.place == place)

    def overwritten(self, place: int, time: int) -> bool:
        """Whether an operation after that time changes the storage in place."""
        return any(place in operation.writes_in_place for operation in self.tape.operations if operation.time > time)

    def _decided(self, time: int, done: set[int]) -> list[Operation]:
        """Operations by which the forward itself decides something before that time, and will again."""
        return [s for s in self.tape.operations if s.decides and s.time <= time and not done.intersection(s.calls)]

    def _weights(self, operation: Operation) -> list[str]:
        sources = (self.tape.values[v].source for v in operation.reads)
        return [source.partition(" ")[2] for source in sources if source.startswith("weight ")]

    def _maker(self, operation: Operation, done: set[int]) -> int | None:
        """The outermost call, over by now, in which the operation ran."""
        return next((i for i in operation.calls if i in done), None)


def leaves(call: Call) -> list[Leaf]:
    """The tensors that a call gave."""
    return [leaf for leaf in call.leaves if isinstance(leaf, Leaf)]
