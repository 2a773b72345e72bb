"""Download of official checkpoints, through the hub's client and its cache."""

from __future__ import annotations

import errno
from pathlib import Path

from etam_edge.bundle import sha256_of
from etam_edge.errors import CheckpointError
from etam_edge.exporters.checkpoints import catalogue
from etam_edge.exporters.checkpoints.catalogue import KNOWN_SHA256, REPOSITORY, cached_checkpoint, file_name
from etam_edge.exporters.checkpoints.causes import causes, reason
from etam_edge.spec import NANO, OFFICIAL

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for the hub's first response."""
_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def fetch_checkpoint(variant: str) -> Path:
    """Path of a model's checkpoint: the package's own, or an official one, downloaded if the hub's cache lacks it.

    Raises:
        CheckpointError: the model has no published checkpoint; the hub cannot be reached or lacks the file; the file
            cannot be stored; huggingface_hub is not installed; or the file is not the published one.
    """
    if variant == NANO.name:
        if not catalogue.PACKAGED.exists():
            raise CheckpointError(
                f"the weights of {NANO.name} are missing at {catalogue.PACKAGED}; install etam-edge again"
            )
        return catalogue.PACKAGED
    if variant not in OFFICIAL:
        raise CheckpointError(
            f"no checkpoint of '{variant}' is published; pass `checkpoint=FILE`, or use one of the models "
            f"{', '.join(OFFICIAL)}"
        )
    path = cached_checkpoint(variant) or _download(variant)
    expected = KNOWN_SHA256.get(variant)
    found = sha256_of(path) if expected else None
    if found != expected:
        # The cache entry is a link. Once the file behind it is deleted, the hub's client downloads it again.
        raise CheckpointError(
            f"{path.resolve()} is not the published checkpoint of {variant}: its sha256 is {found}, "
            f"expected {expected}; delete this file to download it again, or pass a file that you trust as `checkpoint`"
        )
    return path


def _download(variant: str) -> Path:
    file = file_name(variant)
    elsewhere = _elsewhere(file)
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise CheckpointError(
            f"{file} cannot be downloaded: huggingface_hub cannot be imported ({error}); "
            f'pip install "etam-edge[export]", or {elsewhere}'
        ) from error
    try:
        # First a single request without retries: without a network it fails in seconds, where the download itself
        # retries for minutes.
        get_hf_file_metadata(hf_hub_url(REPOSITORY, file), timeout=CONNECT_TIMEOUT)
        return Path(hf_hub_download(REPOSITORY, file, etag_timeout=CONNECT_TIMEOUT, library_name="etam-edge"))
    except Exception as error:  # Which errors the client raises depends on the HTTP library of its version.
        raise CheckpointError(_why_not_downloaded(file, error)) from error


def _elsewhere(file: str) -> str:
    """How to get a file to a machine that cannot download it, as part of a sentence."""
    return f"download {file} of {REPOSITORY} from Hugging Face on another machine and pass `checkpoint=FILE`"


def _why_not_downloaded(file: str, error: Exception) -> str:
    """The error message for an exception of the hub's client."""
    from huggingface_hub import constants
    from huggingface_hub.utils import OfflineModeIsEnabled, RepositoryNotFoundError

    elsewhere = _elsewhere(file)
    cache = constants.HF_HUB_CACHE
    on_disk = _disk_error(error)
    if on_disk is not None and on_disk.errno in _DISK_FULL:
        return (
            f"{file} does not fit on the disk of {cache} ({on_disk.strerror}); "
            "free space there, or set HF_HUB_CACHE to a folder on a larger disk"
        )
    if on_disk is not None:
        return f"{file} cannot be stored in {cache} ({on_disk.strerror}); set HF_HUB_CACHE to a writable folder"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{file} is not in {cache}, and HF_HUB_OFFLINE forbids downloads; unset it, or {elsewhere}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return f"the hub refuses access to {REPOSITORY} (HTTP {status}); log in with 'hf auth login', or {elsewhere}"
    if status == 404:
        return f"{REPOSITORY} on Hugging Face has no file {file}; pass a file that you have as `checkpoint=FILE`"
    if status is not None:
        return f"the hub failed to deliver {file} (HTTP {status}); try again later, or {elsewhere}"
    return f"{file} could not be downloaded ({reason(error)}); check the network and try again, or {elsewhere}"


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the file system behind an exception, if there is one.

    An OSError counts if it names a file, or says that the disk is full; others are of the network.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno and (cause.filename is not None or cause.errno in _DISK_FULL):
            return cause
    return None
