"""Progress bars with the remaining time, and durations as text."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def bar(what: str, on: bool) -> Iterator[Callable[[float, float], None]]:
    """A progress bar with the remaining time; silent if standard error is not a terminal.

    Args:
        what: the text before the bar.
        on: False shows nothing.

    Yields:
        `update(done, total)`.
    """
    console = rich.console.Console(stderr=True)
    columns = (
        rich.progress.TextColumn('{task.description}'),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn('left'),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
    )
    off = not (on and sys.stderr.isatty())
    with rich.progress.Progress(*columns, console=console, disable=off, transient=True) as live:
        task = live.add_task(what, total=None)
        yield lambda done, total: live.update(task, completed=done, total=total)


def duration(seconds: float) -> str:
    """A duration as text.

    Example:
        >>> duration(59.7), duration(3725)
        ('1 min 0 s', '1 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f'{rest} s'
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min {rest} s'
