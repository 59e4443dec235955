"""The command generate: text from a run that was trained on a text."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal._common.errors import InputError
from blocklocal._common.screen import printable
from blocklocal.cli.arguments import parse


@dataclass(frozen=True)
class GenerateArguments:
    """Text that goes on from a prompt, token by token."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = ""
    """The beginning of the text; default: that of a document."""
    tokens: int = 100
    """How many tokens, at most."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token every time."""
    top_p: float = 1.0
    """Draw from the most probable tokens that together have so much probability."""
    seed: int = 0
    """Seed of the draw."""
    exit: int | None = None
    """Take every token from this block (from 1). Default: the last."""
    sure: float | None = None
    """Take a token from the first block that gives one at least this probability (after `blocklocal calibrate` a
    calibrated one); the blocks behind do not run for it."""
    checkpoint: str | None = None
    """A named checkpoint; default: the newest."""
    device: str = "auto"
    """auto, cpu or cuda."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


def generate(arguments: list[str]) -> None:
    """Text from a run that was trained on a text.

    It is printed as it is made; where blocks may differ, how many tokens each gave stands on standard error.
    """
    from blocklocal.data.tokenizer import Tokenizer
    from blocklocal.network.generation import Sampling
    from blocklocal.network.generation import generate as tokens_of
    from blocklocal.network.network import BlockLocal
    from blocklocal.runs.calibrate import run_temperatures
    from blocklocal.runs.looking import load_network
    from blocklocal.runs.saved import TOKENIZER, load_facts
    from blocklocal.schemas.run import check_run_folder

    given = parse(GenerateArguments, arguments, "blocklocal generate")
    check_run_folder(given.run)
    calibrated = run_temperatures(given.run, given.checkpoint)
    sampling = Sampling(
        given.tokens,
        given.temperature,
        given.top_p,
        given.seed,
        given.exit,
        given.sure,
        () if calibrated is None else calibrated.blocks,
    )
    facts = load_facts(given.run)
    if facts.text is None:
        raise InputError(f"the run {given.run} was trained on {facts.kind}, and text is made by one trained on text.")
    tokenizer = Tokenizer.from_file(given.run / TOKENIZER)
    start = tokenizer.encode([given.prompt])[0].tolist()
    if not start and tokenizer.end is None:
        raise InputError("the tokenizer has no token between documents to begin with: give a prompt.")
    _, _, network = load_network(given.run, given.checkpoint, given.device, trust=given.trust)
    assert isinstance(network, BlockLocal)
    begin = start or [tokenizer.end]
    made, blocks, shown, before = list[int](), Counter[int](), "", len(tokenizer.decode(start))
    coming = tokens_of(network, begin, sampling, length=facts.width, end=tokenizer.end)
    print(printable(given.prompt), end="", flush=True)
    for found in coming:
        made.append(found.token)
        blocks[found.block] += 1
        text = tokenizer.decode([*start, *made])[before:]
        whole = text.rstrip("\ufffd")  # half a character waits for its other bytes
        print(printable(whole[len(shown) :]), end="", flush=True)
        shown = whole
    print()
    if given.sure is not None:
        parts = ", ".join(f"block {k}: {blocks[k]}" for k in sorted(blocks))
        print(f"tokens from {parts}", file=sys.stderr)
