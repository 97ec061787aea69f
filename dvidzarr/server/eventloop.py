"""The event loop of a server, and how to answer at once what need not wait.

Most answers are ready without any waiting. A task for each would cost a turn of the loop, a fifth of a small request: so a
coroutine runs up to its first wait before a task is made of it. Python does this itself from 3.12 on (`eager_start`).
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any

_IS_NATIVE = sys.version_info >= (3, 12)


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes event loops: uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415  (absent on Windows, and not worth 20 ms to who only imports this module)
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Begin `work`; return the task that goes on with it, None if it is done.

    What ends it before its first wait is raised here. Until then it runs in no task (before Python 3.12): what needs one
    says `await in_task()`. Not for tasks: it would take theirs for its own.
    """
    loop = asyncio.get_running_loop()
    if _IS_NATIVE:
        eager: dict[str, Any] = {"eager_start": True}
        task = asyncio.Task(work, loop=loop, **eager)
        if not task.done():
            return task
        task.result()
        return None
    context = copy_context()
    try:
        awaited = context.run(work.send, None)
    except StopIteration:
        return None
    return asyncio.Task(_Rest(work, awaited), loop=loop, context=context)


async def in_task() -> None:
    """Go on in a task, as timeouts must."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


class _Rest(Coroutine[Any, Any, None]):
    """What is left of work that waits for `awaited`: it hears of a cancellation even before its task had a turn."""

    def __init__(self, work: Coroutine[Any, Any, None], awaited: object) -> None:
        self._work = work
        self._awaited = awaited
        self._has_begun = False

    def send(self, value: Any) -> object:  # noqa: ANN401 - as futures give it
        """Go on."""
        if self._has_begun:
            return self._work.send(value)
        self._has_begun = True
        return self._awaited

    def throw(self, *error: Any) -> object:  # noqa: ANN401 - in the three forms that there are
        """Go on with an error."""
        self._has_begun = True
        return self._work.throw(*error)

    def close(self) -> None:
        """End it where it waits."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only a task goes on with this")
