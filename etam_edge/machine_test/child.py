"""The process that runs steps: it reads their names from standard input, and answers a line of JSON for each.

A process of its own can be ended when a step takes too long, and a crash inside a driver ends no more than this.

    python -m etam_edge.machine_test.child DESCRIPTOR SETTINGS

DESCRIPTOR is the number of an open pipe that answers are written to; libraries print to standard output.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback

from etam_edge.errors import EtamError
from etam_edge.machine_test.steps import Outcome, Settings, Steps


def main() -> None:
    # What Python was doing when a library crashed, on standard error.
    faulthandler.enable()
    steps = Steps(Settings(**json.loads(sys.argv[2])))
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            answers.write(json.dumps(vars(_run(steps, line.strip()))) + "\n")
            answers.flush()


def _run(steps: Steps, name: str) -> Outcome:
    try:
        return steps.run(name)
    except EtamError as error:
        return Outcome(False, str(error), {"error": type(error).__name__})
    except Exception as error:
        # A defect of a library or of this package: the report keeps the traceback.
        return Outcome(False, f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()})


if __name__ == "__main__":
    main()
