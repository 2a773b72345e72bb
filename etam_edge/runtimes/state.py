"""A session on disk: one .npz file, written beside its place and renamed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from etam_edge.atomic import atomic_file
from etam_edge.errors import InputError
from etam_edge.runtimes.workspace import DecoderOutput

STATE_VERSION = 1


@dataclass
class SessionState:
    """All that the rest of a stream depends on.

    Attributes:
        bundle: identity of the bundle.
        options: of the session.
        frame_index, frame_shape: of the frame just tracked.
        prompted: objects that were prompted on it.
        objects: by id, what `ObjectMemory.to_dict` gives.
        outputs: by id, the frame's outputs.
        buffers: the workspace's kept buffers, by name.
    """

    bundle: str
    options: dict[str, Any]
    frame_index: int
    frame_shape: tuple[int, int] | None
    prompted: tuple[int, ...]
    objects: dict[int, dict[str, Any]]
    outputs: dict[int, DecoderOutput]
    buffers: dict[str, np.ndarray]


def save_state(state: SessionState, path: str | os.PathLike[str]) -> None:
    """
    Raises:
        InputError: the file cannot be written; an earlier one stays as it was.
    """
    about = {
        "version": STATE_VERSION,
        **{name: getattr(state, name) for name in ("bundle", "options", "frame_index", "frame_shape", "prompted")},
        "objects": list(state.objects.items()),
    }
    arrays = {f"buffer_{name}": array for name, array in state.buffers.items()}
    for object_id, output in state.outputs.items():
        # A mask is there only where the graph gave one; as it was before graphs did.
        values = {name: value for name, value in asdict(output).items() if value is not None}
        arrays |= {f"answer_{object_id}_{name}": np.asarray(value) for name, value in values.items()}
    try:
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror}); free space or name another file") from error


def load_state(path: str | os.PathLike[str]) -> SessionState:
    """
    Raises:
        InputError: the file is missing, damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        if about["version"] != STATE_VERSION:
            raise ValueError(f"state version {about['version']}, this etam-edge reads {STATE_VERSION}")
        objects = {int(object_id): memory for object_id, memory in about["objects"]}
        return SessionState(
            bundle=about["bundle"],
            options=about["options"],
            frame_index=about["frame_index"],
            frame_shape=tuple(about["frame_shape"]) if about["frame_shape"] else None,
            prompted=tuple(about["prompted"]),
            objects=objects,
            outputs={object_id: _decoder_output(arrays, object_id) for object_id in objects},
            buffers={name[len("buffer_") :]: array for name, array in arrays.items() if name.startswith("buffer_")},
        )
    except FileNotFoundError:
        raise InputError(f"there is no session state at {path}; write one with session.save()") from None
    except Exception as error:
        raise InputError(f"{path} is no session state, or is damaged ({error}); save the session again") from error


def _decoder_output(arrays: dict[str, np.ndarray], object_id: int) -> DecoderOutput:
    names = {field.name: f"answer_{object_id}_{field.name}" for field in fields(DecoderOutput)}
    values: dict[str, Any] = {name: arrays[key] for name, key in names.items() if name != "mask" or key in arrays}
    return DecoderOutput(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})
