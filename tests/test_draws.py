"""What tests draw does not depend on which of them ran before. Oracle: their source."""

import ast
import re
from pathlib import Path


def test_no_tests_share_a_generator() -> None:
    """Else what one draws depends on which ran before it in the same process."""
    shared = [
        f"{file.name}:{node.lineno}"
        for file in Path(__file__).parent.glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        and re.search(r"(Generator|default_rng|Random)\([^()]*\)(\.manual_seed\(\d+\))?$", ast.unparse(node.value))
    ]
    assert not shared
