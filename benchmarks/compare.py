"""`python -m benchmarks.compare`: this project beside other readers of Zarr, or beside another commit."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from benchmarks import against, machine, scaling
from benchmarks.datasets import gray
from benchmarks.groups import GROUPS, Bench
from benchmarks.report import Report, show
from benchmarks.timing import Figure, interleave
from benchmarks.volumes import Plan

_SIZE = 512
_SECONDS, _QUICK_SECONDS = 1.0, 0.25
_DEPTHS = (1, 100, 1000)
_KEYS = (1000, 10_000, 100_000, 1_000_000)
_SCALING = "scaling"


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute: less time per case, no scaling"
    )
    parser.add_argument(
        "--full", action="store_true", help="also 10 000 versions, 10⁶ keys and 10⁷ chunks (long)"
    )
    parser.add_argument(
        "--only", metavar="GROUPS", help=f"of {', '.join((*GROUPS, _SCALING))}, separated by commas"
    )
    parser.add_argument(
        "--against", metavar="REV", help="compare with another commit instead of other programs"
    )
    parser.add_argument("--folder", type=Path, help="where stores are made; default: the temporary folder")
    parser.add_argument("--size", type=int, default=_SIZE, help="edge of the volume, a multiple of 64")
    parser.add_argument("--name", help="of the files in benchmarks/results; default: compare")
    options = parser.parse_args(words)
    chosen = set((options.only or ",".join((*GROUPS, _SCALING))).split(","))
    if unknown := chosen - {*GROUPS, _SCALING}:
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join((*GROUPS, _SCALING))}")
    if options.size % 64 or options.size < 128:
        parser.error(f"--size {options.size} is not a multiple of 64 of at least 128")
    options.groups = [group for group in GROUPS if group in chosen]
    options.scaling = _SCALING in chosen and not options.quick and not options.against
    return options


def plan_of(options: argparse.Namespace, folder: Path) -> Plan:
    """Return what to measure."""
    depths = _DEPTHS[:2] if options.quick else (*_DEPTHS, 10_000) if options.full else _DEPTHS
    seconds = _QUICK_SECONDS if options.quick else _SECONDS
    keys = _KEYS[:2] if options.quick else _KEYS if options.full else _KEYS[:3]
    return Plan(folder, gray(options.size), seconds, depths, keys)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    options = parse(words)
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="dvidzarr-bench-", dir=options.folder) as name:
        plan = plan_of(options, Path(name))
        report = Report({**machine.facts(plan.folder), "volume": f"{plan.data.name} {plan.size}³"})
        console.print(
            "  ".join(f"{key}: {value}" for key, value in report.facts.items() if key != "packages"), "\n"
        )
        if options.against:
            against.run(plan, options.groups, options.against, report, console)
        else:
            _beside_others(plan, options.groups, report, console)
        if options.scaling:
            scaling.run(plan.folder, report, console, full=options.full)
    report.facts["load at end"] = machine.load()
    path = report.save(options.name or ("against" if options.against else "compare"))
    console.print(
        f"load average {report.facts['load']} at the start, {report.facts['load at end']} at the end"
    )
    console.print(f"{path}")


def _beside_others(plan: Plan, groups: Sequence[str], report: Report, console: Console) -> None:
    bench = Bench(plan)
    for group in groups:
        figures: list[Figure] = []
        with closing(GROUPS[group](bench)) as items:  # type: ignore[type-var]
            for item in items:
                figures += [item] if isinstance(item, Figure) else interleave(item, plan.seconds)
        report.add(group, figures)
        show(console, group, figures)


if __name__ == "__main__":
    main()
