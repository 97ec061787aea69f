"""One of two commits that are compared: measures what it is told to. `python -m benchmarks.worker FOLDER SIZE DEPTHS`.

Speaks lines of JSON: each group of cases begins with the names of its cases on stdout; then `[index, calls]` on stdin
is answered with the seconds of each call, and `null` asks for the next group of cases.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from benchmarks.datasets import gray
from benchmarks.groups import GROUPS, Bench, ours
from benchmarks.timing import Case, Figure
from benchmarks.volumes import Plan


def items(bench: Bench, groups: list[str]) -> Iterator[tuple[str, list[Case]]]:
    """Yield our cases with the names of their groups."""
    for group in groups:
        for item in GROUPS[group](bench):
            cases = [] if isinstance(item, Figure) else ours(item)
            if cases:
                yield group, cases


def main() -> None:
    folder, size, depths, groups = sys.argv[1:]
    bench = Bench(Plan(Path(folder), gray(int(size)), 0.0, tuple(map(int, depths.split(",")))))
    for group, cases in items(bench, groups.split(",")):
        _say([group, [[case.name, case.who, case.nbytes, case.calls] for case in cases]])
        for index, calls in _orders():
            _say(cases[index].turn(calls))
    _say(None)


def _orders() -> Iterator[tuple[int, int]]:
    """Yield what to measure of a group; leave, ending all servers, when nobody asks any more."""
    while line := sys.stdin.buffer.readline():
        order = orjson.loads(line)
        if order is None:
            return
        index, calls = order
        yield index, calls
    raise SystemExit


def _say(value: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
