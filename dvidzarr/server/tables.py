"""The endpoint tables of the datatypes, imported when first needed."""

from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.endpoint import EndpointTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvidzarr.repo.datatype import DataType


def table_of(datatype: "DataType") -> EndpointTable:
    """Return the endpoints of a datatype."""
    return _load(datatype.endpoints)


def load_all(datatypes: "Iterable[DataType]") -> None:
    """Load what the first requests would wait for: beside them, as a server does, nobody waits for its 50 ms."""
    for datatype in datatypes:
        with suppress(Exception):  # whoever asks for it hears why
            table_of(datatype)
    np.unique(np.empty(0))  # the first call loads numpy.ma


@lru_cache(maxsize=256)
def _load(place: str) -> EndpointTable:
    module, _, name = place.partition(":")
    table = getattr(import_module(module), name)
    if not isinstance(table, EndpointTable):
        raise InvalidInputError(f"{place} is not an EndpointTable")
    return table
