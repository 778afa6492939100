"""The `nvinfer` command: `nvinfer --input_file MODEL.onnx --output_file MODEL.plan` converts a network."""

import signal
import sys

from planish import _planish


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the work is in C++, which Ctrl-C has to end
    return _planish.cli_main(["planish", "build", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
