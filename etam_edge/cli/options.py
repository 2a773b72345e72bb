"""What all commands share: how errors name options, optional values, warnings of the package, and --quiet."""

from __future__ import annotations

import ast
import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable
from itertools import zip_longest
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from typer.core import TyperCommand

from etam_edge.errors import EtamError, RuntimeUnavailableError
from etam_edge.interrupts import exit_code

PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
"""A parameter in an error message, with its value if there is one: see `etam_edge.errors`."""
OPTION_NAMES = {"regions": "region"}
"""Parameters of options that have another name than the workflow's."""
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print results, warnings and errors only: no progress, no next command."),
]
_OPTIONAL_VALUES: dict[str, tuple[str, re.Pattern[str]]] = {}
"""Options that may stand without a value: the value that they then have, and the form of values that may follow."""
is_quiet = False
"""Whether the command that runs has --quiet."""


WRITTEN_WHOLE = {"export", "quantize", "build", "track", "check", "bench", "sensitivity", "record"}
"""Commands whose outputs appear at the end, so that nothing is written when an interrupt reaches this module."""
BROKEN_PIPE = 141
"""Exit code of a program whose output is no longer read, as shells report it."""


def optional_value(option: str, value: str, form: str) -> None:
    """Let an option stand without a value, which Typer does not know.

    Args:
        option: its name, with the dashes.
        value: that it then has.
        form: regular expression of the values that may follow. Anything else belongs to the rest of the command line,
            so that `live --serve BUNDLE SOURCE` is understood.
    """
    _OPTIONAL_VALUES[option] = value, re.compile(form)


class Command(TyperCommand):
    """A command whose errors name options, whose options may have optional values, and which says that it was ended."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for option in self.params for name in option.opts}
        whole = []
        for word, following in zip_longest(args, args[1:]):
            whole.append(word)
            if word in known and word in _OPTIONAL_VALUES:
                value, form = _OPTIONAL_VALUES[word]
                if following is None or not form.fullmatch(following):
                    whole.append(value)
        return super().parse_args(ctx, whole)

    def invoke(self, ctx: Any) -> Any:
        _show_warnings()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            self._end(interrupt)
        except BrokenPipeError:
            # Nothing more is written there, not even by the interpreter when it ends.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
            raise typer.Exit(BROKEN_PIPE) from None
        except (ImportError, RuntimeUnavailableError) as error:
            pressed = _interrupt_behind(error)
            if pressed is not None:
                self._end(pressed)
            _name_options(error, ctx)
            raise
        except EtamError as error:
            _name_options(error, ctx)
            raise

    def _end(self, interrupt: KeyboardInterrupt) -> NoReturn:
        from etam_edge.cli.console import err

        nothing = "; nothing was written" if self.name in WRITTEN_WHOLE else ""
        err.print(f"etam-edge: {self.name} was interrupted{nothing}")
        raise typer.Exit(exit_code(interrupt)) from interrupt


def _name_options(error: Exception, ctx: Any) -> None:
    """Options for parameters in the message of a user's error; the same exception goes on, with its traceback."""
    if isinstance(error, EtamError):
        error.args = (with_options(str(error), ctx),)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Ctrl-C that a package reports as an ImportError, since it was pressed while the package was imported."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


def with_quiet(function: Callable[..., None]) -> Callable[..., None]:
    """A command's function with the option --quiet, which may also stand before the command's name."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    parameters = [one.replace(annotation=hints[one.name]) for one in signature.parameters.values()]
    parameters.append(inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption))

    @functools.wraps(function)
    def command(quiet: bool = False, **options: Any) -> None:
        set_quiet(is_quiet or quiet)
        function(**options)

    # Typer reads either of them, depending on its version.
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def set_quiet(quiet: bool) -> None:
    global is_quiet
    is_quiet = quiet


class _Warnings(logging.Handler):
    """Shows the log records of this package as warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        from etam_edge.cli.console import warn

        warn(record.getMessage())


def _show_warnings() -> None:
    logger = logging.getLogger("etam_edge")
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings(logging.WARNING))


def with_options(message: str, ctx: Any) -> str:
    """The message with `name=value` replaced by "--name value", or by the argument's name as the help shows it.

    Names are looked up among the parameters of the command that runs, then among those of all commands ("export the
    bundle with a larger --max-points"); what is no parameter stays as it is.
    """
    others = getattr(ctx.find_root().command, "commands", {}).values()

    def replace(match: re.Match[str]) -> str:
        name = OPTION_NAMES.get(match[1], match[1])
        for command in (ctx.command, *others):
            for parameter in command.params:
                if parameter.name != name:
                    continue
                if parameter.param_type_name == "option":
                    return _option_with_value(parameter, match[2])
                if command is ctx.command:
                    return name.upper()
        return match[0]

    return PARAMETER.sub(replace, message)


def _option_with_value(option: Any, text: str | None) -> str:
    name = str(max(option.opts, key=len))
    if text is None:
        return name
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if isinstance(value, dict):
        return " ".join(f"{name} {key}={item}" for key, item in value.items())
    if isinstance(value, bool):
        return name if value else str(next(iter(option.secondary_opts), name))
    return f"{name} {value if isinstance(value, str) else text}"
