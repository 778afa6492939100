"""A one-line progress bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


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
