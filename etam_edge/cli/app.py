"""`etam-edge`: the commands, and what happens to their errors.

Exit codes: 0 done, 1 a check failed its threshold, 2 the call or its input is wrong. A user's mistake never shows a
traceback; a defect of this package does.
"""

from __future__ import annotations

import sys

import typer

from etam_edge.cli.bench import bench
from etam_edge.cli.build import build
from etam_edge.cli.check import check
from etam_edge.cli.demo import demo
from etam_edge.cli.doctor import doctor
from etam_edge.cli.export import export
from etam_edge.cli.inspect import inspect
from etam_edge.cli.models import models
from etam_edge.cli.record import record
from etam_edge.cli.sensitivity import sensitivity
from etam_edge.cli.track import track
from etam_edge.errors import EtamError

app = typer.Typer(
    name="etam-edge",
    help="EfficientTAM from a checkpoint to a robot: export, inspect, track.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (export, build, track, check, bench, sensitivity, record, inspect, models, demo, doctor):
    app.command()(command)


def main() -> None:
    """Entry point of the `etam-edge` script."""
    try:
        app()
    except EtamError as error:
        print(f"etam-edge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("etam-edge: interrupted", file=sys.stderr)
        sys.exit(130)
