"""A one-line progress bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class ProgressBar:
    """Draws at most 20 times a second; draws nothing unless the stream is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._active = self._stream is not None and self._stream.isatty()
        self._drawn = 0.0
        self._started = time.monotonic()

    @property
    def active(self) -> bool:
        return self._active

    def __call__(self, stage: str, detail: str, fraction: float) -> None:
        now = time.monotonic()
        if not self._active or now - self._drawn < 0.05:
            return
        self._drawn = now
        width = 24
        full = int(width * min(max(fraction, 0.0), 1.0))
        bar = "█" * full + "·" * (width - full)
        line = f"{stage:>9} {bar} {fraction * 100:3.0f} % {now - self._started:5.1f} s  {detail}"
        columns = shutil.get_terminal_size().columns
        self._stream.write("\r\x1b[2K" + line[: columns - 1])
        self._stream.flush()

    def close(self) -> None:
        if self._active and self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


@contextmanager
def reported(progress: bool | Callable[[str, str, float], Any]) -> Iterator[Callable[[str, str, float], Any] | None]:
    """What the compiler is to call with (stage, detail, fraction): the caller's function, or for True a bar on a
    terminal, which is gone at the end; None: nothing."""
    bar = ProgressBar() if progress is True else None
    try:
        yield (bar if bar.active else None) if bar else (progress if callable(progress) else None)
    finally:
        if bar is not None:
            bar.close()
