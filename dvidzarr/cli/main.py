"""The entry point, and the place where failures become a line and an exit code.

It imports next to nothing: until `main` runs, Ctrl-C shows a traceback.
"""

import os
import sys
from collections.abc import Sequence
from types import TracebackType

from dvidzarr.cli.signals import ending, leave_at_the_end, leaving_at_once, unwinding


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    sys.excepthook = report_bug
    if args is None:  # the program, which ends behind this
        leave_at_the_end()
    try:
        with leaving_at_once():
            _hold_standard_files()
            import dvidzarr.cli.commands  # noqa: PLC0415, F401 - click takes a tenth of a second
        with unwinding():
            return _run(args)
    except KeyboardInterrupt as error:
        return _interrupted(error)


def _run(args: Sequence[str] | None) -> int:
    import click  # noqa: PLC0415

    from dvidzarr.cli.commands import cli  # noqa: PLC0415
    from dvidzarr.core.errors import DvidzarrError  # noqa: PLC0415

    try:
        code = cli.main(
            args=None if args is None else list(args), prog_name="dvidzarr", standalone_mode=False
        )
    except click.exceptions.Abort as error:
        return _interrupted(error.__cause__)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        return 1
    except (DvidzarrError, OSError, MemoryError) as error:
        _say(f"error: {describe(error)}")
        return 1
    return code if isinstance(code, int) else 0


def _interrupted(error: BaseException | None) -> int:
    name, code = ending(error)
    _say(name)
    return code


def _say(line: str) -> None:
    import click  # noqa: PLC0415

    click.echo(f"dvidzarr: {line}", err=True)


def _hold_standard_files() -> None:
    """Open what the caller closed of stdin, stdout and stderr: else a file of the store would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number


def describe(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unforeseen failure as one line; the traceback is for those who ask for it."""
    if os.environ.get("DVID_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
        return
    _say(f"internal error: {kind.__name__}: {describe(error)} (set DVID_TRACEBACK=1 and report it)")


if __name__ == "__main__":
    sys.exit(main())
