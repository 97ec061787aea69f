"""The endpoint tables of the datatypes, imported when first needed."""

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.endpoint import EndpointTable

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.datatype import DataType
    from dvidzarr.repo.instance import Instance


def table_of(datatype: "DataType") -> EndpointTable:
    """Return the endpoints of a datatype."""
    return _load(datatype.endpoints)


def instance_info(instance: "Instance", version: "Version") -> dict[str, object]:
    """Return the JSON of an instance at a version, as its datatype forms it."""
    return table_of(instance.datatype).info(instance, version)


@lru_cache(maxsize=256)
def _load(place: str) -> EndpointTable:
    module, _, name = place.partition(":")
    table = getattr(import_module(module), name)
    if not isinstance(table, EndpointTable):
        raise InvalidInputError(f"{place} is not an EndpointTable")
    return table
