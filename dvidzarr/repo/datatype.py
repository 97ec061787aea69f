"""What a datatype is: a frozen record. Built-in ones stand in an explicit table (`datatypes.BUILTIN`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvidzarr.repo.instance import Instance


@dataclass(frozen=True, slots=True)
class DataType:
    """A kind of data instance.

    Attributes
    ----------
    name, url, version : str
        As DVID's JSON shows them (`TypeName`, `TypeURL`, `TypeVersion`).
    instance : type
        Class of its instances.
    endpoints : str
        "module:NAME" of its HTTP table, imported by the server when first needed.
    help : str
        Package resource of its help text.
    settings : tuple of str
        The settings that it knows beside those of every instance (`COMMON_SETTINGS`), as DVID spells them.
    """

    name: str
    url: str
    version: str
    instance: "type[Instance]"
    endpoints: str
    help: str
    settings: tuple[str, ...] = ()


Registry = Mapping[str, DataType]
