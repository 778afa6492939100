"""The one exception type of Planish."""

from __future__ import annotations


class Error(RuntimeError):
    """What went wrong, where, and what to do about it.

    Attributes:
        code: one of "invalid_argument", "invalid_model", "invalid_plan", "unsupported", "not_found", "io_error",
            "verification_failed", "resource_exhausted", "internal".
        message: names the user's own layers, tensors, shapes and files.
        hint: what to do; may be "".
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint

    def __reduce__(self):
        return Error, (self.code, self.message, self.hint)
