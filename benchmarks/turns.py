"""Programs that work in turns, so that what else the machine does meets all of them alike."""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence


class Worker:
    """A program that answers each line with one line of JSON; one that fails or takes too long is ended.

    Args:
        command: What to run.
        environment: Variables on top of this process's own.

    Attributes:
        failure: Why it was ended; none while it works.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        variables = {"OMP_WAIT_POLICY": "passive", **os.environ, **(environment or {})}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=variables)
        self.failure: str | None = None

    def ask(self, line: str, seconds: float) -> dict | None:
        """The answer to a line; None where the worker has failed."""
        if self.failure is not None:
            return None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._end_broken()
        deadline = time.monotonic() + seconds
        while select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            if not (answer := self._process.stdout.readline()):
                return self._end_broken()
            if answer.startswith(b"{"):  # libraries print, too
                return json.loads(answer)
        self.failure = f"more than {seconds:g} s"
        self._process.kill()
        self._process.communicate()
        return None

    def close(self) -> None:
        """End the program."""
        if self.failure is None:
            self._process.communicate()

    def _end_broken(self) -> None:
        words = self._process.communicate()[1].decode(errors="replace")
        is_memory = "MemoryError" in words or "allocate memory" in words or self._process.returncode == -9
        last = (words.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1]
        self.failure = "out of memory" if is_memory else last[:150]
