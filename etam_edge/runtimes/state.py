"""Saved sessions: one .npz file, written atomically.

The file holds a JSON description (`about`), the last outputs of each object (`answer_ID_NAME`) and the device buffers
(`buffer_NAME`). The names are part of the format and do not change within a version.
"""

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
    """Everything that the results of later frames depend on.

    Attributes:
        bundle: identity of the bundle, `Bundle.identity`.
        options: of the session, by the parameter names of `Session`.
        frame_index: of the last frame; -1 before the first.
        frame_shape: (H, W) of the frames; None before the first.
        prompted: objects that were prompted on the last frame.
        objects: bookkeeping of their memory by id, as `ObjectMemory.to_dict` returns it.
        outputs: of the decoder on the last frame, by id.
        buffers: device memory by name, as `Workspace.kept_state` lists it.
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
    """Write a state, replacing the file atomically.

    Raises:
        InputError: the file cannot be written; an existing one is unchanged.
    """
    about = {
        "version": STATE_VERSION,
        **{name: getattr(state, name) for name in ("bundle", "options", "frame_index", "frame_shape", "prompted")},
        "objects": list(state.objects.items()),
    }
    arrays = {f"buffer_{name}": array for name, array in state.buffers.items()}
    for object_id, output in state.outputs.items():
        # `mask` is None for bundles without a frame size. It is left out, as before masks of graphs existed.
        values = {name: value for name, value in asdict(output).items() if value is not None}
        arrays |= {f"answer_{object_id}_{name}": np.asarray(value) for name, value in values.items()}
    try:
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror}); free space or name another file") from error


def load_state(path: str | os.PathLike[str]) -> SessionState:
    """Read the state that `save_state` wrote.

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
        raise InputError(f"there is no saved session at {path}; write one with session.save()") from None
    except Exception as error:
        raise InputError(f"{path} is not a saved session, or is damaged ({error}); save the session again") from error


def _decoder_output(arrays: dict[str, np.ndarray], object_id: int) -> DecoderOutput:
    names = {field.name: f"answer_{object_id}_{field.name}" for field in fields(DecoderOutput)}
    values: dict[str, Any] = {name: arrays[key] for name, key in names.items() if name != "mask" or key in arrays}
    return DecoderOutput(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})
