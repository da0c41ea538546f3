"""Links in the documentation lead somewhere, and commands in it have the options that they are given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdns.cli import main as kdns_main
from nodelocal.cli import main as nodelocal_main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench/README.md"])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page if not path else page.parent / path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options(page: Path) -> None:
    text = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    text = text.replace("\\\n", " ")
    for program, command in (("kdns", kdns_main), ("nodelocal", nodelocal_main)):
        for line in re.findall(rf"^(?:\$ )?{program} ([a-z].*)$", text, flags=re.MULTILINE):
            words = line.split()
            assert words[0] in command.commands, line
            options = {option for parameter in command.commands[words[0]].params for option in parameter.opts}
            for group in getattr(command.commands[words[0]], "commands", {}).values():
                options |= {option for parameter in group.params for option in parameter.opts}
            for word in words[1:]:
                if word.startswith("#"):
                    break
                if word.startswith("--") and not words[0].startswith("probe"):
                    assert word.partition("=")[0] in options | {"--help"}, line
