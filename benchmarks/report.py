"""Figures as a table for people and as JSON for comparisons."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Figure

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Report:
    """What was measured so far, by group."""

    facts: dict[str, object]
    figures: dict[str, list[Figure]] = field(default_factory=dict)

    def add(self, group: str, figures: Iterable[Figure]) -> None:
        """Take in figures."""
        self.figures.setdefault(group, []).extend(figures)

    def save(self, name: str) -> Path:
        """Write `results/NAME.json` and return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.json"
        groups = {group: [asdict(figure) for figure in figures] for group, figures in self.figures.items()}
        path.write_bytes(orjson.dumps({**self.facts, "figures": groups}, option=orjson.OPT_INDENT_2) + b"\n")
        return path


def show(console: Console, title: str, figures: Sequence[Figure], reference: str = "first") -> None:
    """Print figures; the last column is the time of each contestant over that of the first one of its name."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("what", "who"):
        table.add_column(heading)
    for heading in ("median", "p25 … p75", "p99", "MB/s", f"× {reference}"):
        table.add_column(heading, justify="right")
    together: dict[str, list[Figure]] = {}
    for figure in figures:
        together.setdefault(figure.name, []).append(figure)
    for name, (base, *others) in together.items():
        table.add_row(name, base.who, *_columns(base, base))
        for figure in others:
            table.add_row("", figure.who, *_columns(figure, base))
    console.print(table)
    console.print()


def _columns(figure: Figure, base: Figure) -> tuple[str, ...]:
    ratio = "" if base is figure or not base.value else f"{figure.value / base.value:.2f}"
    if figure.unit != "s":
        return f"{figure.value:.0f} {figure.unit}", "", "", "", ratio
    spread = f"{_ms(figure.low)} … {_ms(figure.high)}"
    rate = f"{figure.rate / 1e6:.0f}" if figure.nbytes else ""
    return f"{_ms(figure.value)} ms", spread, _ms(figure.p99), rate, ratio


def _ms(seconds: float) -> str:
    """Return milliseconds with three significant digits."""
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:#.3g}".rstrip(".")
