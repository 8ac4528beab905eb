"""What a command of `python3 -m deploy` ends with when it cannot do its work, and the exit codes for it."""

from __future__ import annotations

# sysexits.h, as in tasks/errors.py.
USAGE, DAMAGED, NO_INPUT, UNAVAILABLE, CANNOT_CREATE, NO_PERMISSION, CONFIG = 64, 65, 66, 69, 73, 77, 78


class DeployError(Exception):
    """What is wrong and how to fix it, usually in one line.

    Attributes:
        code: exit code of the command.
    """

    def __init__(self, text: str, code: int = UNAVAILABLE) -> None:
        super().__init__(text)
        self.code = code
