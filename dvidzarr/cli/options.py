"""Texts of the command line to values: x,y,z triples, boxes, key=value settings."""

import re
from collections.abc import Callable

import click

from dvidzarr.core.geometry import Box

LIMIT = 2**31 - 1
"""DVID's coordinates are 32-bit."""
XYZ = "X,Y,Z"


def integers(least: int = -LIMIT, *, single: bool = False) -> Callable[[str], tuple[int, int, int]]:
    """Return a parser of `x,y,z` in integers; with `single`, one number stands for all three."""

    def parse(text: str) -> tuple[int, int, int]:
        try:
            x, y, z = (int(word) for word in _words(text, single=single))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not x,y,z, three integers") from None
        if not all(least <= number <= LIMIT for number in (x, y, z)):
            raise click.BadParameter(f"{text!r} must lie between {least} and {LIMIT} on each axis")
        return (x, y, z)

    return parse


def sizes(text: str) -> tuple[float, float, float]:
    """Parse the size of a voxel: `x,y,z`, or one number for all three."""
    try:
        x, y, z = (float(word) for word in _words(text, single=True))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not x,y,z, three numbers") from None
    if not all(0 < number < LIMIT for number in (x, y, z)):
        raise click.BadParameter(f"{text!r} must be above 0 on each axis")
    return (x, y, z)


def box(text: str) -> Box:
    """Parse `x0,y0,z0:x1,y1,z1`, half-open."""
    low, colon, high = text.partition(":")
    if not colon:
        raise click.BadParameter(f"{text!r} is not x0,y0,z0:x1,y1,z1")
    (x0, y0, z0), (x1, y1, z1) = integers()(low), integers()(high)
    parsed = Box((z0, y0, x0), (z1, y1, x1))
    if not parsed.volume:
        raise click.BadParameter(
            f"{text!r} is empty: the second corner is the first voxel outside, on every axis"
        )
    return parsed


def reference(text: str) -> str:
    """Return a reference to a version; an empty one, such as of an unset variable, would name the root of the only repo."""
    if not text:
        raise click.BadParameter("it is empty, and must name a version, such as :master")
    return text


def pair(text: str) -> tuple[str, str]:
    """Parse `key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not key=value")
    return (key, value)


def setting(text: str) -> tuple[str, str]:
    """Parse `table.key=value`."""
    key, value = pair(text)
    if "." not in key:
        raise click.BadParameter(f"{text!r} is not table.key=value, such as limits.max_connections=64")
    return (key, value)


SETTING = click.option(
    "--set",
    "given",
    type=setting,
    metavar="TABLE.KEY=VALUE",
    multiple=True,
    help="A setting of config/default.toml; repeatable. Items of a list are separated by commas.",
)
"""Gives commands that read the settings an option for every one of them."""


def box_text(shown: Box | None) -> str:
    """Return a box as the `--box` option takes it."""
    if shown is None:
        return "empty"
    return ":".join(",".join(map(str, corner[::-1])) for corner in (shown.start, shown.stop))


def printable(text: str) -> str:
    """Return text without control characters: anybody may name things, and a terminal obeys them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _words(text: str, *, single: bool) -> list[str]:
    words = text.split(",")
    return words * 3 if single and len(words) == 1 else words
