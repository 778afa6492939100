"""`python -m planish` and the `planish` console script: the same command line as the executable."""

import sys

from . import _planish


def main() -> int:
    return _planish.cli_main(["planish", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
