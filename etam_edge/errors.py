"""Errors that users can cause. Each message is one sentence: what is wrong, where, and what to do.

Messages name parameters of the Python API in backticks, with a value where there is one: "`max_drop=-1` is not a number
of points". The command line prints them as its options ("--max-drop -1"), see `etam_edge.cli.options`; modules outside
`etam_edge.cli` never name an option, except inside a whole command that the user can copy.

Any other exception that escapes is a defect of this package, and shows its traceback.
"""

MAX_REASON = 300
MAX_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def shown(value: object) -> str:
    """The beginning of a value's `repr`, for a message about it. Python refuses to print integers of 5000 digits."""
    try:
        text = repr(value)
    except Exception:  # Of a class of the user's, whatever it raises.
        return f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def why(error: BaseException) -> str:
    """What another exception says, as part of a sentence: in one line, without characters that no terminal shows."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


class EtamError(Exception):
    """Base class of all errors that are raised on purpose.

    Attributes:
        exit_code: exit code of the command line.
    """

    exit_code = 2


class InputError(EtamError, ValueError):
    """A frame, prompt, path or parameter that cannot be used as given."""


class CheckpointError(EtamError):
    """A checkpoint that is missing, damaged, or of another model."""


class BundleError(EtamError):
    """A bundle that is missing, damaged, changed, or of a schema that this version does not read."""


class ExportError(EtamError):
    """An export whose graphs do not compute what the PyTorch model computes."""


class RuntimeUnavailableError(EtamError):
    """A runtime, package or device that was requested and is not available."""


class NotFiniteError(EtamError):
    """The model's output is NaN or infinite; the frame was rejected and the session is unchanged."""


class CudaError(EtamError):
    """A call of CUDA or TensorRT that failed."""
