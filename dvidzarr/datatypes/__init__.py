"""The datatypes: one folder each, and this explicit table. A datatype is `model.py`, `http.py` and `help.md`."""

from dvidzarr.datatypes.keyvalue.model import KEYVALUE
from dvidzarr.datatypes.labelblk.model import LABELBLK
from dvidzarr.datatypes.roi.model import ROI
from dvidzarr.datatypes.voxels.types import IMAGEBLK
from dvidzarr.repo.datatype import Registry

BUILTIN: Registry = {datatype.name: datatype for datatype in (*IMAGEBLK, LABELBLK, KEYVALUE, ROI)}
