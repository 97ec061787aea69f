"""`dvidzarr config show`: what is set, and by what."""

from pathlib import Path

import click
import orjson

from dvidzarr.cli.options import SETTING
from dvidzarr.core.settings import Settings


@click.group()
def config() -> None:
    """Show the settings and where each comes from."""


@config.command()
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file to read.",
)
@SETTING
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(file: Path | None, given: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Print every setting, its value, and its source: default, the file, the environment, or --set."""
    settings = Settings.load(file, texts=dict(given))
    if as_json:
        rows = {key: {"value": value, "source": source} for key, value, source in settings.items()}
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    for key, value, source in settings.items():
        click.echo(f"{key:32} {orjson.dumps(value).decode():24} {source}")
