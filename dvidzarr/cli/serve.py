"""`dvidzarr serve`: the server in this process, or in several."""

from pathlib import Path

import click

from dvidzarr.cli.options import SETTING
from dvidzarr.cli.target import is_url
from dvidzarr.core.settings import MOST_WORKERS, Settings


@click.command()
@click.argument("store")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1, this machine only]")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port, 0 for any free one.  [default: 8000]")
@click.option(
    "--workers",
    type=click.IntRange(0, MOST_WORKERS),
    help="Processes that serve; one of them writes.  [default: one per core, at most 4]",
)
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file with settings."
)
@SETTING
@click.option(
    "--durability",
    type=click.Choice(["full", "fast"]),
    help="Whether an acknowledged write survives a power loss at once (full) or after some seconds (fast).",
)
@click.option(
    "--read-only",
    is_flag=True,
    default=None,
    help="Take no writes; another process may be the writer.",
)
@click.option(
    "--full-write",
    is_flag=True,
    default=None,
    help="Let administrators, and nobody else, write locked versions: for repairs.",
)
@click.option(
    "--audit-log",
    type=click.Path(dir_okay=False),
    help="File that gets a JSON line per request that may change something.",
)
@click.option(
    "--insecure-allow-anonymous",
    "anonymous",
    type=click.Choice(["reader", "writer"]),
    help="What callers without the admin token may do; needed to listen where other machines can call.",
)
def serve(
    store: str,
    host: str | None,
    port: int | None,
    workers: int | None,
    config: Path | None,
    given: tuple[tuple[str, str], ...],
    durability: str | None,
    read_only: bool | None,
    full_write: bool | None,
    audit_log: str | None,
    anonymous: str | None,
) -> None:
    """Serve STORE, a folder that is made if it is missing or empty, until Ctrl-C or SIGTERM.

    Prints the URL on stdout once it answers; the log goes to stderr. If DVID_ADMIN_TOKEN is set, only its
    bearer may make and delete repos and instances.
    """
    if is_url(store):
        raise click.UsageError(f"{store} is a server already: give the path of a store")
    overrides = {
        "server.host": host,
        "server.port": port,
        "server.workers": workers,
        "server.anonymous": anonymous,
        "server.read_only": read_only,
        "server.full_write": full_write,
        "server.audit_log": audit_log,
        "storage.durability": durability,
    }
    _run(store, Settings.load(config, overrides=overrides, texts=dict(given)))


def _run(store: str, settings: Settings) -> None:
    if settings.server.process_count > 1:
        from dvidzarr.server.supervisor import supervise  # noqa: PLC0415 - what help need not load

        supervise(store, settings, ready=_ready)
        return
    from dvidzarr.server.app import serve as run  # noqa: PLC0415 - as above
    from dvidzarr.server.opening import open_store  # noqa: PLC0415

    catalog = open_store(store, settings, write=not settings.server.read_only)
    run(catalog, settings, settings.server.host, settings.server.port, ready=_ready)


def _ready(address: str, port: int) -> None:
    from dvidzarr.server.listening import url_of  # noqa: PLC0415 - as above

    click.echo(url_of(address, port))
