"""Oracle: bash itself, which sources the script and is asked for words; and the help, which lists every flag."""

import re
import shutil
import subprocess
from functools import cache

import pytest
from run_helpers import assert_refused, cli

from blocklocal.cli.completion import flags_by_command
from blocklocal.cli.main import COMMANDS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@cache
def script(shell: str) -> str:
    return cli("completion", shell).out


def completed(line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    asking = f"""
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
function="$(complete -p blocklocal | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
"$function" || true; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script("bash") + asking], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("blocklocal tr", ["train", "trace"]),
        ("blocklocal train --ep", ["--epochs"]),
        ("blocklocal train --no-tens", ["--no-tensorboard"]),
        ("blocklocal train --epochs 3 --rule ta", ["target-projection"]),
        ("blocklocal compare --recipe qu", ["quickstart"]),
        ("blocklocal recipes qu", ["quickstart"]),
        ("blocklocal completion z", ["zsh"]),
        ("blocklocal evaluate runs/fir", []),
    ],
)
def test_bash_completes_commands_flags_and_names(line, words):
    assert completed(line) == words


def test_every_command_is_completed():
    assert {word for word in completed("blocklocal ") if not word.startswith("-")} == set(COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("recipes", "completion")])
def test_the_flags_that_are_completed_are_those_of_the_help(command):
    said = cli(command, "--help").out
    listed = re.findall(r"^\W*(?:-h, )?(?<!\w)(--[a-z][\w-]+)(?:, (--[a-z][\w-]+))?", said, re.MULTILINE)
    known = {name for flag in flags_by_command(command) for name in flag.names}
    assert known | {"--help"} == {name for pair in listed for name in pair if name}


def test_zsh_is_told_to_take_what_is_written_for_bash():
    first, rest = script("zsh").split("\n", 1)
    assert "bashcompinit" in first
    assert rest == script("bash")


def test_an_unknown_shell_is_refused_with_those_there_are():
    assert_refused(cli("completion", "fish"), "unknown shell 'fish'", "bash, zsh")
    assert_refused(cli("completion"), "bash or zsh")
