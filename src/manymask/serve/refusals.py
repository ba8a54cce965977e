"""Refusals: a sentence for people, and HTTP's number for programs."""

from manymask.errors import ManymaskError


class Refusal(ManymaskError):  # noqa: N818 - nothing failed
    """A request that is not done, and why.

    Attributes:
        status: HTTP's number for it.
        retry_after: Seconds after which the same request may be done; None where waiting does not help.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after = status, retry_after
