"""`blocklocal completion`: a script with which a shell completes the commands, their flags and the names they take."""

from importlib import import_module

from blocklocal._common.errors import InputError, unknown
from blocklocal.cli.flags import Flag, flags_of
from blocklocal.cli.main import COMMANDS
from blocklocal.cli.reproduce import experiments
from blocklocal.runs.recipes import RECIPES

SHELLS = ("bash", "zsh")
ARGUMENTS = {
    "train": "arguments:TrainArguments",
    "plan": "plan:PlanArguments",
    "compare": "arguments:CompareArguments",
    "evaluate": "arguments:EvaluateArguments",
    "predict": "arguments:PredictArguments",
    "generate": "generate:GenerateArguments",
    "export": "export:ExportArguments",
    "report": "arguments:ReportArguments",
    "calibrate": "calibrate:CalibrateArguments",
    "diagnose": "diagnose:DiagnoseArguments",
    "trace": "trace:TraceArguments",
    "simulate": "simulate_arguments:SimulateArguments",
}
"""Command → `module:dataclass` below `blocklocal.cli`, of those that take flags."""
HELP = """usage: blocklocal completion {bash,zsh}

Print a script with which a shell completes the commands of blocklocal, their flags, and the names that a flag takes.

  bash   eval "$(blocklocal completion bash)"   in ~/.bashrc
  zsh    eval "$(blocklocal completion zsh)"    in ~/.zshrc, after compinit
"""
ZSH = "autoload -Uz bashcompinit && bashcompinit\n"  # zsh's own way to take what is written for bash
SCRIPT = """# What a shell completes after `blocklocal`. Made by `blocklocal completion`.
_blocklocal() {{
  local current="${{COMP_WORDS[@]:$((COMP_CWORD)):1}}" command="${{COMP_WORDS[@]:1:1}}" before="" words=""
  if [ "$COMP_CWORD" -gt 1 ]; then before="${{COMP_WORDS[@]:$((COMP_CWORD - 1)):1}}"; else command=""; fi
  case "$command $before" in
{choices}
    *) case "$command" in
      "") words="{commands}" ;;
{flags}
    esac ;;
  esac
  COMPREPLY=( $(compgen -W "$words" -- "$current") )
}}
complete -o default -F _blocklocal blocklocal
"""


def completion(arguments: list[str]) -> None:
    """Print a script with which bash or zsh completes commands and flags."""
    if arguments in (["-h"], ["--help"]):
        print(HELP)
        return
    if len(arguments) != 1:
        raise InputError(f"completion takes the name of a shell: {' or '.join(SHELLS)}.")
    if arguments[0] not in SHELLS:
        raise unknown("shell", arguments[0], SHELLS)
    print((ZSH if arguments[0] == "zsh" else "") + script(), end="")


def script() -> str:
    """The script for bash; zsh takes it too."""
    flags = {command: flags_by_command(command) for command in COMMANDS}
    words = {command: [name for flag in flags[command] for name in flag.names] for command in COMMANDS}
    words["recipes"] += RECIPES.names()
    words["completion"] += SHELLS
    choices = [
        f'    "{command} {flag.names[0]}") words="{" ".join(flag.choices)}" ;;'
        for command in COMMANDS
        for flag in flags[command]
        if flag.choices
    ]
    cases = [f'      {command}) words="{" ".join([*words[command], "--help"])}" ;;' for command in COMMANDS]
    return SCRIPT.format(
        commands=" ".join([*COMMANDS, "--help", "--version"]), choices="\n".join(choices), flags="\n".join(cases)
    )


def flags_by_command(command: str) -> list[Flag]:
    """The flags of a command; of `reproduce`, where the experiments are there."""
    if command == "reproduce":
        try:
            return list(flags_of(experiments().ReproduceArguments))
        except InputError:  # the installed package is without them
            return []
    if command not in ARGUMENTS:
        return []
    module, _, name = ARGUMENTS[command].partition(":")
    found = list(flags_of(getattr(import_module(f"blocklocal.cli.{module}"), name)))
    recipes = tuple(RECIPES.names())
    return [Flag(flag.setting, flag.names, recipes) if flag.setting == "recipe" else flag for flag in found]
