"""What a process that serves asks of the system: files, and the signals that end it."""

import asyncio
import logging
import resource
import signal

LOG = logging.getLogger("dvidzarr.server")

_RESERVED = 256
"""Descriptors that are kept for the files of stores, logs, and other processes."""

_ENOUGH = 65536
"""More descriptors are not asked for: the limit may be infinite, which macOS allows nobody to set."""


def allow_descriptors() -> None:
    """Let this process, and those that it starts, have as many files and connections open as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            LOG.warning("at most %s files and connections can be open: %s", soft, error)


def connections_of_each(limit: int, processes: int) -> int:
    """Return how many connections each process takes, of a limit for all: so many that it can open files beside them."""
    share = -(-limit // processes)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = share if soft == resource.RLIM_INFINITY else max(1, soft - _RESERVED, soft // 2)
    if room < share:
        LOG.warning(
            "a process takes %s connections instead of %s (limits.max_connections): it may have %s files open",
            room,
            share,
            soft,
        )
    return min(share, room)


def end_with_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Have the event set by SIGTERM, SIGINT, and SIGHUP unless that is ignored (`nohup`)."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, stop.set)
