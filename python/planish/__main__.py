"""`python -m planish` and the `planish` console script: the command line of the executable, which has no decoder of
images: a folder of them given to --calib is read here, as --image KEY=VALUE says.
"""

import os
import signal
import sys

from . import _planish
from ._errors import Error
from ._images import replace_folder


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the work is in C++, which Ctrl-C has to end
    os.environ.setdefault("PLANISH_PYTHON", sys.executable)  # for `compare --onnx`
    try:
        with replace_folder(sys.argv[1:]) as arguments:
            return _planish.cli_main(["planish", *arguments])
    except Error as error:
        print(f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
