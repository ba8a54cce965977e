"""The one way in which long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with the number of things that are done, how many there are, and what is being done."""
