"""Makes one process of a run fail at a chosen moment. Python imports this file at its start where PYTHONPATH says so.

BLOCKLOCAL_FAULT is JSON: rank; action (see `act`, or nan, or slow: at every such moment); moment (one of `MOMENTS`, or
start: before the first line of the process, or import: of torch); count: the how-manieth such moment, from 1; file: of
the action pause, which is there as long as the process pauses.

Nothing of blocklocal is imported before the process itself does.
"""

import importlib.util
import json
import os
import sys

HOOK = "blocklocal.parallel.run"  # by the time it is imported, all of the moments' modules are


def act(action, file=None):
    import errno
    import signal
    import time

    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "block-1.safetensors")
    elif action == "raise":
        raise RuntimeError("something nobody thought of")
    elif action == "slow":
        time.sleep(0.3)
    elif action == "sleep":
        time.sleep(1000)
    elif action == "pause":
        open(file, "w").close()
        while os.path.exists(file):
            time.sleep(0.02)
    elif action == "no objects":  # that are pickled may travel over torch.distributed
        from torch.distributed import distributed_c10d

        distributed_c10d._object_to_tensor = distributed_c10d._tensor_to_object = None
    elif action.startswith("exit "):
        os._exit(int(action.split()[1]))


def moments():
    """Name -> (where it is called, its name there, whether the fault comes after it)."""
    import torch.distributed as dist

    from blocklocal.parallel import decision, processes, run
    from blocklocal.parallel.address import Address
    from blocklocal.parallel.links import Outbox
    from blocklocal.parallel.relay import SharedCheckpoints
    from blocklocal.parallel.stage import Stage

    return {
        "connect": (Address, "connect", False),
        "connected": (Address, "connect", True),
        "settings": (processes, "_check_same", False),
        "group": (dist, "init_process_group", False),
        "planning": (decision, "load_data", False),
        "broadcast": (run, "broadcast_decision", False),
        "step": (Stage, "step", False),
        "sent": (Outbox, "send", True),
        "saving": (SharedCheckpoints, "_open", True),
        "evaluation": (Stage, "block_logits", False),
        "end": (processes.Processes, "barrier", False),
        "left": (processes.Processes, "leave", True),
        "concluding": (run, "conclude", False),
    }


def prepare(fault):
    owner, name, after = moments()[fault["moment"]]
    method, seen = getattr(owner, name), [0]

    def disturbed(self, *given, **named):  # self: of a function, its first argument
        result = method(self, *given, **named) if after else None
        seen[0] += 1
        if fault["action"] == "nan" and seen[0] == fault["count"]:
            next(self.learners[0].block.parameters()).data.fill_(float("nan"))
        elif fault["action"] == "slow" or seen[0] == fault["count"]:
            act(fault["action"], fault.get("file"))
        return result if after else method(self, *given, **named)

    setattr(owner, name, disturbed)


class When:
    """Does something when a module is imported: before it, or after it where it is `HOOK`."""

    def __init__(self, module, do):
        self.module, self.do = module, do

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        if name != HOOK:
            self.do()
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_do(module):
            load(module)
            self.do()

        spec.loader.exec_module = load_and_do
        return spec


if "BLOCKLOCAL_FAULT" in os.environ and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
    described = json.loads(os.environ["BLOCKLOCAL_FAULT"])
    if os.environ.get("RANK") == str(described["rank"]):
        if described["moment"] == "start":
            act(described["action"], described.get("file"))
        elif described["moment"] == "import":
            sys.meta_path.insert(0, When("torch", lambda: act(described["action"], described.get("file"))))
        elif HOOK in sys.modules:  # a fork (see `fork_child.py`)
            prepare(described)
        else:
            sys.meta_path.insert(0, When(HOOK, lambda: prepare(described)))
