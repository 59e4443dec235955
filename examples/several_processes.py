"""Train the blocks in two processes at the same time. The weights are those of one process, bit for bit."""

import shlex
import tempfile
from pathlib import Path

from blocklocal.cli import main as blocklocal


def train(output: Path, *more: str) -> None:
    setting = shlex.split("--data digits --model resnet18 --width 4 --blocks 4 --epochs 1 --threads 1")
    status = blocklocal(["train", *setting, *more, "--output", str(output)])
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder, "one"))
        train(Path(folder, "two"), "--processes", "2", "--placement", "2", "2")
        one, two = (sorted(Path(folder, run, "checkpoints").rglob("*.safetensors")) for run in ("one", "two"))
        same = bool(one) and [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
        print("the same weights:", same)
        raise SystemExit(not same)
