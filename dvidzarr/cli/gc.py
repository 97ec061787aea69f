"""`dvidzarr gc`: what no record names goes into the trash, and old trash goes for good."""

from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

import click
import orjson

import dvidzarr
from dvidzarr.cli.options import printable
from dvidzarr.cli.target import require_path
from dvidzarr.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvidzarr.repo.garbage import Garbage

_HOUR_S = 3600.0


@click.command()
@click.argument("store")
@click.option(
    "--older-than",
    type=click.FloatRange(1),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Collect objects that were written that long ago; younger ones may belong to a running write.",
)
@click.option(
    "--purge-trash",
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Also remove for good what came into the trash that long ago: deleted instances and repos too.",
)
@click.option("--yes", is_flag=True, help="Do it. Without this it is only shown what would be done.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def gc(store: str, older_than: float, purge_trash: float | None, yes: bool, as_json: bool) -> None:
    """Move the objects of STORE that no record names into its trash.

    Crashes and replaced values leave such objects behind; nobody sees them. The store must not be open for writing
    elsewhere. What was collected lies below trash/gc-TIME under its old path until it is purged.
    """
    from dvidzarr.repo.garbage import collect, purge  # noqa: PLC0415 - slow to import

    require_path(store, "gc")
    with dvidzarr.open(store, mode="w" if yes else "r", settings=Settings.load()) as catalog:
        found = collect(catalog, older_than_s=older_than * _HOUR_S, dry_run=not yes)
        if purge_trash is not None:
            # first, so as not to delete what comes into the trash now
            found = chain(purge(catalog, older_than_s=purge_trash * 24 * _HOUR_S, dry_run=not yes), found)
        _report(found, done=yes, as_json=as_json)


def _report(found: "Iterator[Garbage]", *, done: bool, as_json: bool) -> None:
    objects = size = 0
    for garbage in found:
        if not garbage.kept:
            objects, size = objects + garbage.objects, size + garbage.size
        if as_json:
            click.echo(orjson.dumps(asdict(garbage)).decode())
            continue
        why = f" (kept: {garbage.kept})" if garbage.kept else ""
        click.echo(printable(f"{garbage.place}: {garbage.objects} objects, {garbage.size} bytes{why}"))
    what = "collected" if done else "to be collected: --yes does it"
    click.echo(f"{objects} objects, {size} bytes {what}", err=True)
