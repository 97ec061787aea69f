"""`dvidzarr kv`: the values of key-value instances."""

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from dvidzarr.cli.bundles import pairs, sink
from dvidzarr.cli.keys import Keys, batches, raw
from dvidzarr.cli.options import printable
from dvidzarr.cli.progress import amount
from dvidzarr.cli.target import Place, open_target

_BATCH_BYTES = 8 << 20
_BATCH_KEYS = 500
_READERS = 8
_AHEAD = 64
"""Keys that are read before they are written out: bounds the memory."""


@click.group()
def kv() -> None:
    """Read and write the values of a key-value instance.

    \b
    dvidzarr new instance my-store :master keyvalue notes
    echo hello | dvidzarr kv put my-store :master/notes greeting
    dvidzarr kv get my-store :master/notes greeting
    """


@contextmanager
def _keys(store: str, place: str, *, write: bool = False) -> Iterator[Keys]:
    where = Place.parse(place)
    with open_target(store, write=write) as target:
        yield target.keys(where.ref, where.name)


@kv.command("get")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("key")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File.  [default: stdout]")
def get(store: str, place: str, key: str, output: Path | None) -> None:
    """Print the value of KEY, as it is."""
    with _keys(store, place) as keys:
        value = keys.read(key)
    if output is None:
        sys.stdout.buffer.write(value)
    else:
        output.write_bytes(value)


@kv.command("put")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("key")
@click.argument("source", type=click.File("rb"), default="-")
def put(store: str, place: str, key: str, source: BinaryIO) -> None:
    """Set KEY to the contents of the file SOURCE, or of stdin."""
    value = source.read()
    with _keys(store, place, write=True) as keys:
        keys.write({key: value})


@kv.command("ls")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.option("--from", "first", metavar="KEY", default="", help="Only this key and those behind it.")
@click.option("--to", "last", metavar="KEY", help="Only this key and those before it.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def ls(store: str, place: str, first: str, last: str | None, as_json: bool) -> None:
    """Print the keys in order, one a line."""
    with _keys(store, place) as keys:
        found = [
            key for key in keys.names() if raw(key) >= raw(first) and (last is None or raw(key) <= raw(last))
        ]
    if as_json:
        click.echo(json.dumps(found))
        return
    for key in found:
        click.echo(printable(key).encode("utf-8", "backslashreplace").decode())


@kv.command("rm")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("names", metavar="KEY...", nargs=-1, required=True)
def rm(store: str, place: str, names: tuple[str, ...]) -> None:
    """Delete keys at a version; its ancestors keep them. A key that does not exist is no error."""
    with _keys(store, place, write=True) as keys:
        keys.remove(names)


@kv.command("import", short_help="Set a key for each file of a folder or a tar archive.")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
def import_(store: str, place: str, source: Path) -> None:
    """Set a key for each file of SOURCE, a folder or a tar archive (also compressed).

    The key is the file's path below the folder, with %XX for odd characters; or its name in the archive.
    """
    count, found = pairs(source)
    with _keys(store, place, write=True) as keys:
        shown = _shown("import", count, found)
        size = sum(_write(keys, batch) for batch in batches(shown, _BATCH_KEYS, _BATCH_BYTES))
    click.echo(f"imported {_keys_text(count)}, {amount(size)}", err=True)


@kv.command("export", short_help="Write values into files of a folder, or into a tar archive.")
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also if TARGET exists.")
def export(store: str, place: str, target: Path, force: bool) -> None:
    """Write each value into a file in the folder TARGET, or into the archive TARGET (.tar, .tar.gz, .tgz)."""
    size = 0
    with _keys(store, place) as keys, sink(target, force=force) as out:
        names = keys.names()
        for key, value in _shown("export", len(names), _values(keys, names)):
            out.add(key, value)
            size += len(value)
    click.echo(f"exported {_keys_text(len(names))}, {amount(size)}", err=True)


def _keys_text(count: int) -> str:
    return f"{count} key{'' if count == 1 else 's'}"


def _values(keys: Keys, names: list[str]) -> Iterator[tuple[str, bytes]]:
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), _AHEAD):
            part = names[start : start + _AHEAD]
            yield from zip(part, pool.map(keys.read, part), strict=True)


def _write(keys: Keys, batch: dict[str, bytes]) -> int:
    keys.write(batch)
    return sum(map(len, batch.values()))


def _shown(what: str, count: int, items: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Pass items on while a bar on stderr counts them (on a terminal; elsewhere it is silent)."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, length=count, label=what, file=sys.stderr, show_pos=True) as bar:
        yield from bar
