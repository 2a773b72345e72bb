"""The program: `etam-edge` and `python -m etam_edge`.

It imports nothing but the standard library until Ctrl-C is handled: importing the commands takes a part of a second.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `etam-edge` script."""
    try:
        from etam_edge.cli.app import main as run
    except KeyboardInterrupt:
        print("etam-edge: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
