"""Files that come with the package: the contract (`api/`), documented settings, help texts, the web page."""

from pathlib import Path

from dvidzarr.core.errors import NotFoundError

_PACKAGE = Path(__file__).parents[1]
_BESIDE = ("api", "config")


def read_resource(name: str) -> bytes:
    """Return a file of the package.

    Parameters
    ----------
    name
        Path with slashes inside the package (`datatypes/voxels/help.md`), or below `api/` or `config/`
        (`config/default.toml`). These two lie beside the package in a checkout and inside it in a wheel.

    Raises
    ------
    NotFoundError
        No such file.
    """
    words = name.split("/")
    if any(word in ("", ".", "..") or "\\" in word or "\0" in word for word in words):
        raise NotFoundError(f"no such file in the package: {name!r}")
    for root in (_PACKAGE, _PACKAGE.parent) if words[0] in _BESIDE else (_PACKAGE,):
        place = root.joinpath(*words)
        if place.is_file():
            return place.read_bytes()
    raise NotFoundError(f"no such file in the package: {name!r}")
