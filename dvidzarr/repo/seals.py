"""What a commit vouches for: how far the log of each instance goes."""

from collections.abc import Iterable

from dvidzarr.core.errors import BusyError
from dvidzarr.repo.instance import Instance
from dvidzarr.storage.durability import flush


def seals(instances: Iterable[Instance]) -> dict[str, list[int]]:
    """Return, per instance written since the last commit, the last sequence and that record's checksum.

    All of it is flushed. `BusyError` if an instance is damaged.
    """
    found = {}
    for instance in instances:
        if instance.opened:
            flush(instance.dataset)
        if not instance.versioned:
            continue
        if instance.dataset.log.damage:  # a seal would vouch for records that are lost
            raise BusyError(f"{instance.prefix} is damaged: no version can be locked until it is repaired")
        instance.dataset.log.check_writable()  # else a record that was refused may come back behind the seal
        tail = instance.dataset.log.tail
        if tail.sequence != instance.sealed_upto:
            found[instance.id] = [tail.sequence, tail.checksum]
    return found
