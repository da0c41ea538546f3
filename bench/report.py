"""What every bench does with its figures: tell how far it is, print tables, write one JSON file, draw one picture."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, UTC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

OUT: Final = Path(__file__).parent / "out"
"""Where figures and pictures go, unless told otherwise."""

PERCENTILES: Final = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))

Row = Mapping[str, object]

CONSOLE: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that *share* of the *ordered* values do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(values: Sequence[float], *, scale: float = 1.0, unit: str = "ms") -> dict[str, float]:
    """Return p50, p99, p99.9 and the largest of *values* times *scale*, under names that end in *unit*."""
    ordered = sorted(values)
    row = {f"{title}_{unit}": round(percentile(ordered, share) * scale, 3) for title, share in PERCENTILES}
    row[f"max_{unit}"] = round(ordered[-1] * scale, 3)
    return row


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return the median, the smallest and the largest of *values*."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


class Report:
    """The figures of one run of the bench *name*; *parameters* are what makes it repeatable: seed and counts."""

    def __init__(self, name: str, parameters: Mapping[str, Any], *, out: Path | None = None) -> None:
        self.name = name
        self.folder = out or OUT
        self._parameters = dict(parameters)
        self._tables: dict[str, list[Row]] = {}
        self._notes: list[str] = []
        self._versions = {"kdns": version("kdns"), "python": platform.python_version()}
        CONSOLE.print(f"[bold]{name}[/bold] on {machine_text()}")
        CONSOLE.print(
            "absolute figures are this machine's; what can be compared are ratios from one run\n", style="dim"
        )

    def has_version(self, name: str, text: str) -> None:
        """Note the version of something that is measured."""
        self._versions[name] = text

    def note(self, text: str) -> None:
        """Tell something beside the figures; it goes into the file as well."""
        self._notes.append(text)
        CONSOLE.print(text)

    def table(self, title: str, rows: Sequence[Row], *, columns: Mapping[str, str] | None = None) -> None:
        """Print *rows* and keep them. *columns* maps those to show to their headings; by default all are shown."""
        self._tables[title] = list(rows)
        if not rows:
            return
        shown = columns or {key: key.replace("_", " ") for key in rows[0]}
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for key, heading in shown.items():
            is_text = all(isinstance(row.get(key), str) for row in rows)
            table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(_text(row.get(key)) for key in shown))
        CONSOLE.print()
        CONSOLE.print(table)

    def write(self) -> Path:
        """Write the machine-readable file, and return its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}.json"
        whole = {
            "bench": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": self._versions,
            "parameters": self._parameters,
            "notes": self._notes,
            "tables": self._tables,
        }
        path.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        CONSOLE.print(f"\nfigures: {_shown(path)}")
        return path

    @contextlib.contextmanager
    def figure(self, title: str, x: str, y: str, *, size: tuple[float, float] = (8, 4.5)) -> Iterator[Any]:
        """Give axes to draw on, and write the picture; without matplotlib say so, and give axes that take anything."""
        try:
            import matplotlib as mpl
        except ImportError:
            CONSOLE.print("no picture: matplotlib is missing (PyPI's package matplotlib, or pip install 'kdns[bench]')")
            yield _NoAxes()
            return
        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=size, layout="constrained")
        try:
            axes.set_title(title)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.grid(visible=True, alpha=0.3)
            yield axes
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{self.name}.png"
            figure.savefig(path, dpi=120)
            CONSOLE.print(f"picture: {_shown(path)}")
        finally:
            plt.close(figure)


class _NoAxes:
    """Axes where there is nothing to draw with."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: []


def progress(text: str) -> None:
    """Tell what is done now: on a terminal in place of what was told before, else a line each."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{text[:width]:{width}}\r")
    else:
        sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def machine() -> dict[str, object]:
    """Return what is known of the machine."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(value, 2) for value in os.getloadavg()],
    }


def machine_text() -> str:
    """Return the machine in one line."""
    facts = machine()
    return f"{facts['cpus']} × {facts['processor']}, {facts['memory_gb']} GB, {facts['system']}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.machine()


def version_of(command: Sequence[str]) -> str:
    """Return the first line with a digit in it that *command* prints, or ``unknown``."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if any(char.isdigit() for char in line)), "unknown")


def package_version(name: str) -> str:
    """Return the version of an installed Python package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _shown(path: Path) -> Path:
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
