"""Makes one process of a run fail at a chosen moment. Python imports this file at its start where PYTHONPATH says so.

BLOCKLOCAL_FAULT is JSON: rank, action (kill, stop, disk, raise, nan, sleep, or slow: at every one), moment (step, sent,
saving, evaluation; of the first process planning, concluding) and count: the how-manieth such moment, from 1.
"""

import json
import os


def act(action):
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


def prepare(fault):
    from blocklocal.parallel import plan, run
    from blocklocal.parallel.links import Outbox
    from blocklocal.parallel.stage import Stage
    from blocklocal.training.checkpoint import Draft

    places = {
        "planning": (plan, "load_data"),
        "concluding": (run, "conclude"),
        "step": (Stage, "step"),
        "sent": (Outbox, "send"),
        "saving": (Draft, "write"),
        "evaluation": (Stage, "block_logits"),
    }
    owner, name = places[fault["moment"]]
    method, seen = getattr(owner, name), [0]

    def disturbed(self, *given, **named):  # self: of a function, its first argument
        result = method(self, *given, **named) if fault["moment"] == "sent" else None
        seen[0] += 1
        if fault["action"] == "nan" and seen[0] == fault["count"]:
            next(self.units[0].block.parameters()).data.fill_(float("nan"))
        elif fault["action"] == "slow" or seen[0] == fault["count"]:
            act(fault["action"])
        return result if fault["moment"] == "sent" else method(self, *given, **named)

    setattr(owner, name, disturbed)


if "BLOCKLOCAL_FAULT" in os.environ and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
    described = json.loads(os.environ["BLOCKLOCAL_FAULT"])
    if os.environ.get("RANK") == str(described["rank"]):
        prepare(described)
