"""What an import comes to: options as our file has them, and what became of the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec


class Note(msgspec.Struct, frozen=True):
    """What became of a line that is no option of ours; *is_lost*: nothing here does its work."""

    where: str
    line: int
    text: str
    is_lost: bool

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: {self.text}"


class Imported(msgspec.Struct):
    """Options as they stand in our file, and notes."""

    program: str
    options: dict[str, Any]
    notes: list[Note]
    settled: set[int]
    """Lines that became options."""

    def toml(self) -> str:
        """Return the file."""
        lines = [f"# {self.program} --config FILE"]
        for name, value in self.options.items():
            lines.append(f"{name} = {json.dumps(value)}")
        return "\n".join([*lines, ""])
