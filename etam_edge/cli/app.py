"""`etam-edge`: the commands, and how their errors end the program.

Exit codes: 0 done, 1 a check is outside its thresholds, 2 the call or its input is wrong or this package has a defect,
130 Ctrl-C, 143 SIGTERM. A user's error is printed in one line; a defect shows its traceback.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from etam_edge import __version__
from etam_edge.cli.bench import bench
from etam_edge.cli.build import build
from etam_edge.cli.check import check
from etam_edge.cli.demo import demo
from etam_edge.cli.doctor import doctor
from etam_edge.cli.export import export
from etam_edge.cli.inspect import inspect
from etam_edge.cli.live import live
from etam_edge.cli.models import models
from etam_edge.cli.options import Command, QuietOption, set_quiet, with_quiet
from etam_edge.cli.prompt import prompt
from etam_edge.cli.quantize import quantize
from etam_edge.cli.record import record
from etam_edge.cli.segment import segment
from etam_edge.cli.selftest import selftest
from etam_edge.cli.sensitivity import sensitivity
from etam_edge.cli.track import track
from etam_edge.errors import EtamError
from etam_edge.interrupts import exit_code, raising_on_termination
from etam_edge.printable import one_line

app = typer.Typer(
    name="etam-edge",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
COMMANDS = (
    export,
    quantize,
    build,
    selftest,
    track,
    live,
    prompt,
    segment,
    check,
    bench,
    sensitivity,
    record,
    inspect,
    models,
    demo,
    doctor,
)
for command in COMMANDS:
    app.command(cls=Command)(with_quiet(command))


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"etam-edge {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """EfficientTAM from a checkpoint to a robot: export, quantize, build, track, check."""
    set_quiet(quiet)


def main() -> None:
    """Run the command that the process was called with."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding does not have is no reason to fail.
        if getattr(stream, "errors", "") == "strict":
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with raising_on_termination():
            app()
    except EtamError as error:
        print(f"etam-edge: {one_line(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        print("etam-edge: interrupted", file=sys.stderr)
        sys.exit(exit_code(interrupt))
    except Exception:
        # Python's own exit code would be 1, which says that a check failed.
        traceback.print_exc()
        print("etam-edge: this is a defect of etam-edge; please report it with the lines above", file=sys.stderr)
        sys.exit(2)
