"""Commands about the logs of a store: its history, and whether it is whole."""

from collections import Counter, deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import orjson

import dvidzarr
from dvidzarr.cli.options import printable, reference
from dvidzarr.cli.target import require_path
from dvidzarr.core.errors import NotFoundError
from dvidzarr.core.settings import Settings
from dvidzarr.storage.frames import Kind

if TYPE_CHECKING:
    from dvidzarr.storage.frames import Entry


@click.group()
def log() -> None:
    """Read the history of a repo or an instance."""


@log.command(short_help="Print every change to a repo or an instance.")
@click.argument("store")
@click.argument("ref", type=reference)
@click.argument("instance", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--tail", type=click.IntRange(1), metavar="N", help="Only the last N records.")
def show(store: str, ref: str, instance: str | None, as_json: bool, tail: int | None) -> None:
    """Print the log of the repo of REF, or of INSTANCE in it: every change with its time, user and app."""
    require_path(store, "log show")
    with dvidzarr.open(store, mode="r", settings=Settings.load()) as catalog:
        repo, _ = catalog.resolve(ref)
        if instance and instance not in repo.instances:
            raise NotFoundError(f"repo {repo.root} has no instance {instance!r}")
        entries = repo.instance(instance).records() if instance else repo.records()
        rows = (_row(entry) for entry in entries)
        for row in deque(rows, tail) if tail else rows:
            click.echo(orjson.dumps(row, default=str).decode() if as_json else _line(row))


def _row(entry: "Entry") -> dict[str, Any]:
    kind = Kind(entry.kind).name.lower() if entry.kind in set(Kind) else str(entry.kind)
    return {
        "sequence": entry.sequence,
        "kind": kind,
        "header": entry.header,
        "payload_length": len(entry.payload),
    }


def _line(row: dict[str, Any]) -> str:
    header = dict(row["header"])
    who = " ".join((_clock(header.pop("t", "")), *(str(header.pop(key, "")) for key in ("u", "a")))).strip()
    rest = orjson.dumps(header, default=str).decode() if header else ""
    size = f"+{row['payload_length']} B" if row["payload_length"] else ""
    first = f"{row['sequence']:>8}"
    return printable("  ".join(part for part in (first, row["kind"], who, rest, size) if part))


def _clock(stamp: str | float) -> str:
    """Return a record's time as text: instance logs keep seconds since 1970, repo logs DVID's text."""
    if isinstance(stamp, str):
        return stamp
    return datetime.fromtimestamp(stamp).astimezone().isoformat()


@click.command()
@click.argument("store")
@click.option("--deep", is_flag=True, help="Read everything: compare every checksum and every cache too.")
@click.option(
    "--repair",
    is_flag=True,
    help="Close gaps in logs by giving up the damaged records; with --deep, also make wrong caches anew.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def verify(store: str, deep: bool, repair: bool, as_json: bool) -> int:
    """Check the logs of STORE and the lengths of its chunks. Exits with 1 if errors remain, else with 0.

    A changed byte in a chunk or a value is found with --deep only. Damaged records make their instance take no
    writes; --repair gives them up, names them, and keeps their bytes in the trash: what they wrote is lost.
    """
    require_path(store, "verify")
    seen: Counter[str] = Counter()
    remaining = 0
    with dvidzarr.open(store, mode="a" if repair else "r", settings=Settings.load()) as catalog:
        for finding in catalog.verify(deep=deep, repair=repair):
            seen[finding.severity] += 1
            remaining += finding.severity == "error" and not finding.repaired
            if as_json:
                fields = ("severity", "place", "message", "repaired")
                click.echo(orjson.dumps({name: getattr(finding, name) for name in fields}).decode())
            else:
                mended = " (repaired)" if finding.repaired else ""
                click.echo(printable(f"{finding.severity}: {finding.place}: {finding.message}{mended}"))
    click.echo(f"{seen['error']} errors, {seen['warning']} warnings, {remaining} errors remain", err=True)
    return 1 if remaining else 0
