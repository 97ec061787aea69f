"""Texts as Go's standard library makes them."""

from datetime import datetime


def go_time(seconds: float) -> str:
    """Return a time as Go prints it by default."""
    time = datetime.fromtimestamp(seconds).astimezone()
    fraction = f".{time.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{time:%Y-%m-%d %H:%M:%S}{fraction} {time:%z %Z}"
