"""The lazy table of commands."""

import importlib

import click

from dvidzarr.cli.signals import leaving_at_once

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("dvidzarr.cli.serve:serve", "Serve a store over DVID's HTTP API."),
    "demo": ("dvidzarr.cli.demo:demo", "Make a store with generated EM-like data and three versions."),
    "repos": ("dvidzarr.cli.repos:repos", "Show the repos, their versions as a tree, and their instances."),
    "new": ("dvidzarr.cli.repos:new", "Create a repo or an instance."),
    "commit": ("dvidzarr.cli.repos:commit", "Lock a version for good."),
    "newversion": ("dvidzarr.cli.repos:newversion", "Make a child of a locked version, on its branch."),
    "branch": ("dvidzarr.cli.repos:branch", "Make a child of a locked version, on a new branch."),
    "conflicts": ("dvidzarr.cli.merges:conflicts", "Show what a merge of versions would leave in conflict."),
    "merge": ("dvidzarr.cli.merges:merge", "Make a version below several locked ones."),
    "resolve": ("dvidzarr.cli.merges:resolve", "Merge, where the first version wins what is in conflict."),
    "rename": ("dvidzarr.cli.repos:rename", "Rename an instance."),
    "delete": ("dvidzarr.cli.repos:delete", "Delete an instance, or a whole repo."),
    "ingest": ("dvidzarr.cli.ingest:ingest", "Copy images, HDF5, NumPy, Zarr or a DVID into an instance."),
    "export": (
        "dvidzarr.cli.export:export",
        "Copy a box or all of an instance to TIFF, HDF5, NumPy or Zarr.",
    ),
    "kv": ("dvidzarr.cli.kv:kv", "Read, write, import and export the values of a key-value instance."),
    "log": ("dvidzarr.cli.logs:log", "Read the history of a repo or an instance."),
    "verify": ("dvidzarr.cli.logs:verify", "Check the logs and chunks of a store, and close gaps in logs."),
    "gc": ("dvidzarr.cli.gc:gc", "Collect objects that no record names; purge the trash."),
    "config": ("dvidzarr.cli.config:config", "Show the settings and where each comes from."),
}
"""Name: (where it lives, its line in `--help`). Imported when asked for, so that `serve` starts fast."""


class LazyGroup(click.Group):
    """A click group that imports a command's module only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table, which is the order of a day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        with leaving_at_once():
            command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="dvidzarr", prog_name="dvidzarr")
def cli() -> None:
    """Keep, version and serve image volumes: DVID's HTTP API over plain Zarr.

    STORE is the path of a store, or the URL of a running server (http://host:port); most commands take
    either. REF names a version: the start of its UUID ("3f8c"), a branch head (":master", "3f8c:fixes"), or
    an ancestor of it (":master~2"). Coordinates are x,y,z.
    """
