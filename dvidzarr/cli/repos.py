"""Commands on repos, versions and instances."""

import dataclasses
import sys
from collections.abc import Iterator

import click
import orjson

from dvidzarr.cli.checks import check_instances, check_locked, check_settings
from dvidzarr.cli.options import box_text, pair, printable, reference
from dvidzarr.cli.target import RepoInfo, VersionInfo, open_target


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def repos(store: str, as_json: bool) -> None:
    """Show the repos of STORE: versions as a tree with branch, lock and note, and the instances."""
    with open_target(store) as target:
        found = target.repos()
    if as_json:
        click.echo(
            orjson.dumps([dataclasses.asdict(repo) for repo in found], option=orjson.OPT_INDENT_2).decode()
        )
        return
    if not found:
        click.echo(f"no repos yet: `dvidzarr new repo {store}` makes one", err=True)
    for repo in found:
        for line in drawn(repo):
            click.echo(line)


def drawn(repo: RepoInfo) -> Iterator[str]:
    """Yield the lines that show a repo: a branch in one column, branches off it to the right."""
    title = " ".join(part for part in (printable(repo.alias), printable(repo.description)) if part)
    yield f"repo {printable(repo.root)}  {title}".rstrip()
    for item in repo.instances:
        extents = f"  {box_text(item.extents)}" if item.extents else ""
        yield f"  {printable(item.name)}  ({item.type_name}){extents}"
    children: dict[str, list[VersionInfo]] = {version.uuid: [] for version in repo.versions}
    for version in repo.versions:
        if version.parents:
            children[version.parents[0]].append(version)
    stack = [(repo.versions[0], 0)]
    while stack:
        version, depth = stack.pop()
        yield "  " + "│ " * depth + _described(version)
        below = children[version.uuid]
        trunk = next(
            (child for child in below if child.branch == version.branch), below[-1] if below else None
        )
        if trunk is not None:
            stack.append((trunk, depth))
        stack += [(child, depth + 1) for child in reversed(below) if child is not trunk]


def _described(version: VersionInfo) -> str:
    parts = ["●" if version.locked else "○", printable(version.uuid), printable(version.branch or "master")]
    parts.append("locked" if version.locked else "open")
    if len(version.parents) > 1:
        parts.append("merge of " + ", ".join(printable(parent)[:8] for parent in version.parents))
    if version.note:
        parts.append(f"“{printable(version.note)}”")
    return "  ".join(parts)


@click.group()
def new() -> None:
    """Create a repo or an instance."""


@new.command("repo")
@click.argument("store")
@click.option("--alias", default="", help="Short name.")
@click.option("--description", default="", help="What it is.")
@click.option("--root", metavar="UUID", help="UUID of the root version.  [default: a new one]")
def new_repo(store: str, alias: str, description: str, root: str | None) -> None:
    """Make a repo and print the UUID of its root version. A STORE that is missing is made."""
    with open_target(store, write=True, create=True) as target:
        click.echo(target.create_repo(alias, description, root))


@new.command("instance")
@click.argument("store")
@click.argument("repo", type=reference)
@click.argument("type_name", metavar="TYPE")
@click.argument("name")
@click.option(
    "--set",
    "settings",
    type=pair,
    metavar="KEY=VALUE",
    multiple=True,
    help="Setting, such as BlockSize=64,64,64; repeatable.",
)
@click.option("--unversioned", is_flag=True, help="One state for all versions, never locked.")
@click.option(
    "--version", "ref", metavar="REF", help="Version to make it in.  [default: the master head of REPO]"
)
def new_instance(
    store: str,
    repo: str,
    type_name: str,
    name: str,
    settings: tuple[tuple[str, str], ...],
    unversioned: bool,
    ref: str | None,
) -> None:
    """Make an instance of TYPE in REPO (any version of it).

    TYPE is uint8blk, uint16blk, uint32blk, uint64blk, float32blk, rgba8blk, labelblk, keyvalue or roi;
    `curl http://host:port/api/help/TYPE` tells the settings of one.

    \b
    dvidzarr new instance my-store 3f8c uint8blk grayscale --set BlockSize=64,64,64 --set VoxelSize=8,8,8
    """
    where = ref or (repo if ":" in repo else f"{repo}:master")
    check_settings(type_name, (key for key, _ in settings))
    config = dict(settings) | ({"versioned": "false"} if unversioned else {})
    with open_target(store, write=True) as target:
        target.create_instance(where, type_name, name, config)
    click.echo(f"made {name} ({type_name})", err=True)


@click.command()
@click.argument("store")
@click.argument("ref", type=reference)
@click.option("-m", "--message", default="", help="Note of the version.")
def commit(store: str, ref: str, message: str) -> None:
    """Lock the version REF: it never changes again. Prints its UUID."""
    with open_target(store, write=True) as target:
        click.echo(target.commit(ref, message))


@click.command()
@click.argument("store")
@click.argument("ref", type=reference)
@click.option("-m", "--message", default="", help="Note of the new version.")
def newversion(store: str, ref: str, message: str) -> None:
    """Make an open child of the locked version REF on the same branch. Prints its UUID."""
    with open_target(store, write=True) as target:
        check_locked(target, [ref])
        click.echo(target.new_version(ref, message))


@click.command()
@click.argument("store")
@click.argument("ref", type=reference)
@click.argument("name")
@click.option("-m", "--message", default="", help="Note of the new version.")
def branch(store: str, ref: str, name: str, message: str) -> None:
    """Make an open child of the locked version REF on a new branch NAME. Prints its UUID."""
    with open_target(store, write=True) as target:
        check_locked(target, [ref])
        click.echo(target.branch(ref, name, message))


@click.command()
@click.argument("store")
@click.argument("ref", type=reference)
@click.argument("old")
@click.argument("new_name", metavar="NEW")
def rename(store: str, ref: str, old: str, new_name: str) -> None:
    """Rename instance OLD to NEW in the repo of REF, in all versions."""
    with open_target(store, write=True) as target:
        check_instances(target, ref, [old])
        target.rename_instance(ref, old, new_name)


@click.command()
@click.argument("store")
@click.argument("ref", type=reference)
@click.argument("name", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(store: str, ref: str, name: str | None, yes: bool) -> None:
    """Delete instance NAME in all versions, or without NAME the whole repo of REF."""
    with open_target(store) as target:
        repo, _ = target.find(ref)
        if name:
            check_instances(target, ref, [name])
    title = (
        f"repo {printable(repo.root)} ({printable(repo.alias)})"
        if repo.alias
        else f"repo {printable(repo.root)}"
    )
    what = f"instance {name!r} in all versions of {title}" if name else f"the whole {title}"
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(f"this deletes {what}: say --yes")
    if not yes:
        click.confirm(f"Delete {what} from {store}?", abort=True)
    with open_target(store, write=True) as target:
        if name:
            target.delete_instance(repo.root, name)
        else:
            target.delete_repo(repo.root)
    click.echo(f"deleted {what}", err=True)
