"""Tar archives made while they are sent: headers and padding around contents of known size."""

import tarfile

END = bytes(2 * tarfile.BLOCKSIZE)
"""Two empty blocks end an archive."""


def tar_header(name: str, size: int) -> bytes:
    """Return the header of a regular file, mode 0755 and without time, as DVID makes it; long names take PAX records."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def tar_padding(size: int) -> bytes:
    """Return what follows contents of this size up to the next block."""
    return bytes(-size % tarfile.BLOCKSIZE)
