"""docs/reference.md is what the programs take; with KDNS_WRITE_DOCS it is written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from kdns import config as kdns_config
from kdns.options import Option
from nodelocal import config as nodelocal_config
from nodelocal.network.plan import NODE

PAGE = Path(__file__).parents[1] / "docs/reference.md"
PROGRAMS = {"kdns": kdns_config.OPTIONS, "nodelocal": nodelocal_config.OPTIONS}
HEAD = """\
# Reference

Every option of `kdns serve` and `nodelocal serve` (and `check`, and of kdns `zone`, `diff` and `explain`): a flag, and a
key of the file that `--config` names. A flag wins over the file, as a whole. Generated from the code.
"""


def shown(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(f"`{one}`" for one in (value if isinstance(value, list) else [value]))


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def row(option: Option) -> str:
    flag = f"`--{option.name}{' ' + option.metavar if option.metavar else ''}`".replace("|", "\\|")
    kind = "" if option.metavar is None else escaped(option.expected)
    return f"| {flag}{' …' if option.is_list else ''} | {kind or 'a switch'} | {shown(option.default)} | {escaped(option.help)} |"


def reference() -> str:
    lines = [HEAD]
    for program, options in PROGRAMS.items():
        groups: dict[str, list[Option]] = {}
        for option in options:
            groups.setdefault(option.group, []).append(option)
        lines += [f"## {program}", ""]
        for group, some in groups.items():
            lines += [
                f"### {program}: {group[0].lower()}{group[1:]}",
                "",
                "| option | takes | default | effect |",
                "|---|---|---|---|",
            ]
            lines += [*map(row, some), ""]
    return "\n".join(lines)


def test_the_reference_is_what_the_code_has() -> None:
    if os.environ.get("KDNS_WRITE_DOCS"):
        PAGE.write_text(reference())
    assert PAGE.read_text() == reference(), "KDNS_WRITE_DOCS=1 python -m pytest tests/test_reference.py writes it anew"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_readme_lists_every_option_but_those_of_the_node(program: str) -> None:
    readme = (PAGE.parents[1] / "README.md").read_text()
    section = readme.split(f"### Options of {program}\n", 1)[1].split("\n### ", 1)[0]
    listed = set(re.findall(r"`--([a-z-]+)", section))
    assert {option.name for option in PROGRAMS[program] if option.group != NODE} <= listed
