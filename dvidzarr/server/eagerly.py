"""To answer at once what need not wait: a coroutine runs up to its first wait before a task is made of it.

Most answers are ready without any waiting. A task for each would cost a turn of the event loop, a fifth of a small request.
Python does this itself from 3.12 on (`eager_start`); until then this module does.
"""

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any

_IS_NATIVE = sys.version_info >= (3, 12)


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Begin `work`; return the task that goes on with it, None if it is done.

    What ends it before its first wait is raised here. Until then it runs in no task (before Python 3.12): what needs one
    says `await in_task()`.
    """
    loop = asyncio.get_running_loop()
    if _IS_NATIVE:
        task = asyncio.Task(work, loop=loop, eager_start=True)  # type: ignore[call-arg]
        if not task.done():
            return task
        task.result()
        return None
    context = copy_context()
    try:
        awaited = context.run(work.send, None)
    except StopIteration:
        return None
    return asyncio.Task(_rest(work, awaited), loop=loop, context=context)


async def in_task() -> None:
    """Go on in a task, as timeouts must."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


@coroutine
def _rest(work: Coroutine[Any, Any, None], awaited: object) -> Generator[Any, Any, None]:
    """Go on with what waits for `awaited`."""
    while True:
        try:
            result = yield awaited
        except BaseException as error:
            step, value = work.throw, error
        else:
            step, value = work.send, result
        try:
            awaited = step(value)
        except StopIteration:
            return
