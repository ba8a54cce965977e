"""What the commands show: notes and progress on stderr, tables on stdout."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

console = Console(stderr=True)
SECONDS_BETWEEN_LINES = 30


def route_notes() -> None:
    """Show Python's warnings, and what the package tells of its work, as lines without the place in the code."""
    warnings.showwarning = lambda message, *_, **__: print_marked("warning:", "bold yellow", str(message))
    notes = logging.getLogger("manymask")
    notes.handlers = [_Notes()]
    notes.setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a class may have a name that the terminal cannot show


def silence_notes() -> None:
    """Leave notes, warnings and progress to the first of several processes."""
    warnings.showwarning = lambda *_, **__: None
    logging.getLogger("manymask").handlers = [logging.NullHandler()]
    console.quiet = True


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print a note."""
        if record.levelno >= logging.WARNING:
            print_marked("warning:", "bold yellow", record.getMessage())
        else:
            print_line(record.getMessage())


def print_line(text: str) -> None:
    """A line as it is: not wrapped, and brackets in a path are not markup."""
    console.print(Text(text), soft_wrap=True)


def print_marked(mark: str, style: str, text: str) -> None:
    """A line that begins with a word in a style of its own."""
    console.print(Text.assemble((mark, style), f" {text}"), soft_wrap=True)


def print_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal."""
    table = Table(*(Column(name, overflow="fold") for name in names), title=title)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160  # a file has no width
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)  # classes may be named [like this]


@contextmanager
def show_progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar; where there is no terminal to draw it on, a line now and then."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    last_line = time.monotonic()

    def show(num_done: int, total: int, what: str) -> None:
        nonlocal last_line
        bar.update(task, completed=num_done, total=total, description=what)
        if not console.is_terminal and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print_line(f"{what}  {num_done}/{total}")

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading", total=None)
        yield show
