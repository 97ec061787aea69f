"""Commands that bring versions together: what would be in conflict, merge, resolve."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import orjson

from dvidzarr.cli.checks import check_instances, check_locked
from dvidzarr.cli.options import printable, reference
from dvidzarr.cli.target import open_target


@click.command()
@click.argument("store")
@click.argument("refs", metavar="REF REF...", type=reference, nargs=-1, required=True)
@click.option("--places", type=click.IntRange(0), default=20, show_default=True, help="Most places shown.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with up to 1000 places per instance.")
def conflicts(store: str, refs: tuple[str, ...], places: int, as_json: bool) -> None:
    """Show what a merge of the versions REF would leave in conflict; nothing is changed.

    A conflict is a block or key for which several versions show values that none of the others replaced, or one
    shows a conflict of an earlier merge. The merged version would show nothing there. Per place, `1 = 3 | 2` means
    that the first and the third REF show one value, the second another (or a conflict); `- | 2` that no value
    could win: write or delete it below the second REF.
    """
    _check(refs)
    with open_target(store) as target:
        found = target.conflicts(refs)
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    for name, report in sorted(found.items()):
        for line in _drawn(name, report, places):
            click.echo(line)
    if found:
        names = " ".join(f"--data {printable(name)}" for name in sorted(found))
        click.echo(f"resolve {names} would let the first REF win that has a value", err=True)
    else:
        click.echo("no conflicts", err=True)


def _drawn(name: str, report: Mapping[str, Any], places: int) -> Iterator[str]:
    counts = [
        f"{report[member]} {word}{'s' if report[member] > 1 else ''}"
        for member, word in (("BlockCount", "block"), ("KeyCount", "key"))
        if report[member]
    ]
    yield f"{printable(name)}: {', '.join(counts)}"
    shown = [(_block(item), item["Parents"]) for item in report["Blocks"]]
    shown += [(printable(item["Key"]), item["Parents"]) for item in report["Keys"]]
    width = max((len(text) for text, _ in shown[:places]), default=0)
    for text, groups in shown[:places]:
        yield f"  {text:{width}}  " + " | ".join(
            " = ".join(str(at + 1) for at in each) or "-" for each in groups
        )
    more = report["BlockCount"] + report["KeyCount"] - len(shown[:places])
    if more:
        yield f"  and {more} more"


def _block(item: Mapping[str, Any]) -> str:
    scale = f" of scale {item['Scale']}" if item["Scale"] else ""
    return f"block {','.join(map(str, item['Block']))}{scale}"


@click.command()
@click.argument("store")
@click.argument("refs", metavar="REF REF...", type=reference, nargs=-1, required=True)
@click.option("-m", "--message", default="", help="Note of the new version.")
def merge(store: str, refs: tuple[str, ...], message: str) -> None:
    """Make an open version below the locked versions REF, the first of which it continues. Prints its UUID.

    Where they are in conflict it shows nothing: see `dvidzarr conflicts` before, and `dvidzarr resolve`.
    """
    _check(refs)
    with open_target(store, write=True) as target:
        check_locked(target, refs)
        click.echo(target.merge(refs, message))


@click.command()
@click.argument("store")
@click.argument("refs", metavar="REF REF...", type=reference, nargs=-1, required=True)
@click.option("--data", "names", multiple=True, required=True, help="Instance to resolve; repeatable.")
@click.option("-m", "--message", default="", help="Note of the new version.")
def resolve(store: str, refs: tuple[str, ...], names: tuple[str, ...], message: str) -> None:
    """Merge the locked versions REF; where they conflict in --data, the first that has a value wins.

    What loses is deleted in a child of each REF that loses, and these are merged. Prints the UUID of the
    merged version, which is open.
    """
    _check(refs)
    with open_target(store, write=True) as target:
        check_locked(target, refs)
        check_instances(target, refs[0], names)
        click.echo(target.resolve(refs, names, message))


def _check(refs: Sequence[str]) -> None:
    if len(refs) < 2:
        raise click.UsageError("give at least two versions")
