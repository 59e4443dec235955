"""The table of models.md is true: every configuration in it is cut, equal to the original, learns and loads."""

import warnings

import pytest
import torch
from model_families import FAMILIES, HEAD, PAGE, row

torch.set_num_threads(1)


def rows():
    table = PAGE.read_text().partition("<!-- table -->\n")[2].partition("\n<!-- end of table -->")[0]
    head, _, lines = table.partition(HEAD + "\n")
    assert not head
    return lines.splitlines()


def test_the_table_has_a_row_for_every_configuration():
    named = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in rows()]
    assert named == [(family.library, family.name) for family in FAMILIES]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}:{family.name}")
def test_a_configuration_does_what_its_row_says(family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = row(family)
    assert found in rows()
    assert found.endswith("| yes | yes | yes |")
