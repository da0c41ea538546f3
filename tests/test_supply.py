"""What the image is made of agrees with itself: pins with hashes, the ranges of pyproject.toml, the bill of materials."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "deploy/requirements.txt").read_text()
PINS = {
    canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+) \\$", LOCK, flags=re.MULTILINE)
}


def test_every_line_is_a_pin_with_hashes_and_no_address() -> None:
    entries = [
        entry for entry in re.sub(r"^#.*\n", "", LOCK, flags=re.MULTILINE).replace("\\\n", " ").splitlines() if entry
    ]
    assert len(entries) == len(PINS) > 20
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry
    assert "://" not in LOCK


def test_the_pins_are_within_the_ranges() -> None:
    wanted = [
        Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    assert wanted
    for one in wanted:
        assert one.specifier.contains(PINS[canonicalize_name(one.name)]), one


def test_what_is_pinned_needs_is_pinned_too() -> None:
    for name in PINS:
        for text in requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert canonicalize_name(one.name) in PINS, f"{name} needs {one}"


def test_the_bill_of_materials_has_the_same() -> None:
    bom = json.loads((ROOT / "deploy/sbom.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(part["name"]): part["version"] for part in bom["components"]} == PINS
    assert all(part["purl"].startswith("pkg:pypi/") for part in bom["components"])
