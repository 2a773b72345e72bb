"""What can go wrong, in one sentence each: what is wrong, where, and what to do.

Every error that a user can cause is an `EtamError`; the command line prints its text and exits with `exit_code`.
Anything else that escapes is a defect of this package and shows its traceback.
"""


class EtamError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line exits with."""

    exit_code = 2


class InputError(EtamError, ValueError):
    """A frame, prompt, path or option that cannot be used as it was given. It is a `ValueError` too."""


class CheckpointError(EtamError):
    """A checkpoint that is missing, damaged, or of another model."""


class BundleError(EtamError):
    """A bundle that is missing, damaged, changed, or of a schema this version does not know."""


class ExportError(EtamError):
    """An export whose graphs do not do what the PyTorch model does."""


class RuntimeUnavailableError(EtamError):
    """A runtime, package or device that was asked for and is not there."""


class NotFiniteError(EtamError):
    """The model answered NaN or infinity; the frame was not taken."""


class CudaError(EtamError):
    """CUDA or TensorRT refused a call."""
