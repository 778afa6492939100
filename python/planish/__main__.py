"""`python -m planish` and the `planish` console script: the same command line as the executable."""

import os
import signal
import sys

from . import _planish


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the work is in C++, which Ctrl-C has to end
    os.environ.setdefault("PLANISH_PYTHON", sys.executable)  # for `compare --onnx`
    return _planish.cli_main(["planish", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
