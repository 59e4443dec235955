"""The public interface: closed sets are written down once, and registries show what they hold."""

import dataclasses
from typing import get_type_hints

import pytest
from run_helpers import cli

from blocklocal import FAMILIES, MODELS, OBJECTIVES, RULES, InputError, Learning
from blocklocal._common import choices
from blocklocal._common.choices import is_choice, values
from blocklocal._common.registry import Registry
from blocklocal.block.twin import TWINS
from blocklocal.cli.arguments import TrainArguments, parse
from blocklocal.rules.base import Rule, local_step
from blocklocal.runs.config import Config
from blocklocal.runs.recipes import RECIPES
from blocklocal.runs.settings import Machine, Model, Optimisation

OPEN = {
    "rule": (choices.RuleName, RULES),
    "family": (choices.FamilyName, FAMILIES),
    "objective": (choices.ObjectiveName, OBJECTIVES),
    "twin": (choices.TwinName, TWINS),
    "model": (choices.ModelName, MODELS),
}
HINTS = {
    (group, name): hint
    for group in (Learning, Model, Optimisation, Machine)
    for name, hint in get_type_hints(group).items()
    if is_choice(hint)
}
CLOSED = {(group, name): values(hint) for (group, name), hint in HINTS.items() if name not in OPEN}


@pytest.mark.parametrize("name", OPEN)
def test_the_names_of_a_type_are_those_of_its_registry(name):
    alias, registry = OPEN[name]
    assert sorted(values(alias)) == registry.names()


def test_every_setting_with_a_closed_set_has_it_as_its_type():
    names = {"order", "scope", "reconstruct", "normalise", "balance", "optimizer", "schedule", "decay"}
    names |= {"precision", "keep"}
    assert {name for _, name in CLOSED} == names


@pytest.mark.parametrize(("group", "name"), CLOSED, ids=str)
def test_a_closed_set_takes_its_names_and_suggests_the_nearest_for_another(group, name):
    for value in CLOSED[group, name]:
        assert getattr(group(**{name: value}), name) == value
    wrong = CLOSED[group, name][0] + "x"
    with pytest.raises(InputError, match=f"unknown {name} '{wrong}'. Did you mean '{wrong[:-1]}'"):
        group(**{name: wrong})
    with pytest.raises(InputError, match=name):
        group(**{name: [wrong]})


@pytest.mark.parametrize("name", sorted({*(name for _, name in CLOSED), *OPEN}))
def test_the_command_line_offers_the_names_of_the_type(name):
    known = values(OPEN[name][0]) if name in OPEN else next(v for (_, each), v in CLOSED.items() if each == name)
    said = cli("train", "--help")
    text = " ".join(said.out.replace("│", " ").split())
    text = text[text.index(f"--{name} ") :][:800].replace(" ", "")
    assert "{" + ",".join(known) + "}" in text


def test_the_command_line_refuses_a_name_outside_a_closed_set(tmp_path):
    said = cli("train", "--order", "secnd", "--output", tmp_path / "run")
    assert said.status == 2
    assert "unknown order 'secnd'. Did you mean 'second'? Known: auto, exact, first, second." in " ".join(
        said.text.split()
    )
    assert not (tmp_path / "run").exists()


def test_a_shell_completes_the_names_of_a_closed_set(capfd):
    with pytest.raises(SystemExit):
        parse(TrainArguments, ["--tyro-write-completion", "bash", "/dev/stdout"], "blocklocal train")
    said = capfd.readouterr().out
    for known in CLOSED.values():
        assert all(f'"{name}"' in said or f"'{name}'" in said for name in known), known


def test_a_rule_of_the_users_own_is_accepted_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(RULES, "items", dict(RULES.items))
    RULES.add("mine", Rule("mine", "a rule of my own", local_step, twin=None, objective="greedy"))
    assert Learning(rule="mine").rule == "mine"
    Config().edit(rule="mine").save(tmp_path / "config.json")
    from blocklocal.runs.config import load_config

    assert load_config(tmp_path).learning.rule == "mine"
    assert "mine  " in repr(RULES)
    assert "a rule of my own" in repr(RULES)
    said = cli("train", "--rule", "mine", "--epochs", "0")
    assert "epochs must be" in said.text  # the rule is not what is wrong


# --- registries


@pytest.mark.parametrize("registry", [RULES, FAMILIES, MODELS, OBJECTIVES, TWINS, RECIPES], ids=lambda r: r.kind)
def test_a_registry_prints_every_entry_with_a_line_about_it(registry):
    head, *lines = repr(registry).splitlines()
    assert head == f"{registry.kind}: {len(registry.names())} known"
    assert [line.split()[0] for line in lines] == registry.names()
    for name, line in zip(registry.names(), lines, strict=True):
        assert len(line.split(maxsplit=1)[1]) > 10, name
        assert line.endswith(registry.summary(name))


def test_a_registry_is_asked_as_a_dictionary_is():
    assert list(RULES) == RULES.names()
    assert len(RULES) == len(RULES.names())
    assert "greedy" in RULES
    assert "greedi" not in RULES
    assert 3 not in RULES
    with pytest.raises(InputError, match="Did you mean 'greedy'"):
        RULES.summary("greedi")


def test_a_registry_without_entries_prints_that():
    assert repr(Registry("thing")) == "thing: 0 known"


def test_a_summary_that_is_given_goes_before_that_of_the_thing():
    things = Registry("thing")
    things.add("one", test_a_registry_without_entries_prints_that, "given")
    things.add("two", "a text")
    assert (things.summary("one"), things.summary("two")) == ("given", "a text")


def test_every_setting_of_learning_is_still_a_field_with_a_default():
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(Learning))
