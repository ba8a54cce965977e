"""What people are told when an edit is not made."""

from manymask.errors import ManymaskError


class EditError(ManymaskError):
    """An edit that cannot be made; says why in a sentence for people."""


class Conflict(ManymaskError):  # noqa: N818 - not a fault: somebody else was faster
    """The objects were changed since the reader saw them.

    Attributes:
        revision: The present one.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"somebody changed the objects meanwhile (revision {revision}); look at the changes and try again"
        )
        self.revision = revision
