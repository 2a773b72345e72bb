"""Saved sessions: one .npz file, written atomically, and checked wholly before any of it is used.

The file holds a JSON description (`about`), the last outputs of each object (`answer_ID_NAME`) and the device buffers
(`buffer_NAME`). The names are part of the format and do not change within a version.

A file is trusted in nothing. Its description is read first and checked against the bundle; from it follow the names,
types and shapes of all arrays, and nothing else is read. What the arrays hold must be finite, and the SHA-256 of the
whole, which the description states, must be right. Version 1 is version 2 without `sha256` and `row`, and is read as
well.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from etam_edge.atomic import atomic_file
from etam_edge.bundle import Bundle, TensorSpec
from etam_edge.errors import InputError, shown, why
from etam_edge.regular_files import checked_path, open_archive, open_regular, parse_json
from etam_edge.runtimes.frames import MAX_FRAME_PIXELS
from etam_edge.runtimes.memory import ObjectMemory
from etam_edge.runtimes.npz import Npz, require
from etam_edge.runtimes.prompts import check_object_id
from etam_edge.runtimes.workspace import DecoderOutput, all_finite, kept_tensors

STATE_VERSION = 2
MAX_ABOUT = 1 << 20
"""Characters of the description; that of 1000 objects has half of them."""
MAX_MEMBERS = 10_000
MAX_INDEX = 1 << 62


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session, by the parameter names of `Session`, which checks their values."""

    corrections_condition: bool
    max_objects: int
    fill_hole_area: int
    resize: str


@dataclass(frozen=True)
class SavedObject:
    """One object on the last frame: its row in the buffers, its memory's bookkeeping, and the decoder's output for it.

    `prompted` says whether it was prompted on that frame.
    """

    row: int
    memory: ObjectMemory
    output: DecoderOutput
    prompted: bool


@dataclass
class SessionState:
    """Everything that the results of later frames depend on.

    Attributes:
        bundle: identity of the bundle, `Bundle.identity`.
        options: of the session.
        frame_index: of the last frame; -1 before the first.
        frame_shape: (H, W) of the frames; None before the first.
        objects: by id, in the order in which they were first prompted.
        buffers: device memory by name, as `Workspace.kept_state` lists it.
    """

    bundle: str
    options: SessionOptions
    frame_index: int
    frame_shape: tuple[int, int] | None
    objects: dict[int, SavedObject]
    buffers: dict[str, np.ndarray]


def save_state(state: SessionState, path: str | os.PathLike[str]) -> None:
    """Write a state, replacing the file atomically.

    Raises:
        InputError: the file cannot be written; an existing one is unchanged.
    """
    path = checked_path(path, "path")
    arrays = {f"buffer_{name}": array for name, array in state.buffers.items()}
    for object_id, one in state.objects.items():
        # `mask` is None for bundles without a frame size. It is left out, as before masks of graphs existed.
        values = {name: value for name, value in asdict(one.output).items() if value is not None}
        arrays |= {f"answer_{object_id}_{name}": np.asarray(value) for name, value in values.items()}
    about = {
        "version": STATE_VERSION,
        "bundle": state.bundle,
        "options": asdict(state.options),
        "frame_index": state.frame_index,
        "frame_shape": state.frame_shape,
        "prompted": [object_id for object_id, one in state.objects.items() if one.prompted],
        "objects": [[object_id, {"row": one.row, **one.memory.to_dict()}] for object_id, one in state.objects.items()],
    }
    about["sha256"] = _digest(about, arrays)
    try:
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror}); free space or name another file") from error


def load_state(path: str | os.PathLike[str], bundle: Bundle) -> SessionState:
    """Read the state that `save_state` wrote, for a session of a bundle.

    Raises:
        InputError: the file is missing, damaged or of another version, or was saved with another bundle.
    """
    path = checked_path(path, "path")
    try:
        with open_regular(path) as file, open_archive(file, MAX_MEMBERS) as archive:
            members = Npz(archive)
            about = parse_json(members.text("about", MAX_ABOUT))
            require(isinstance(about, dict), "its description is not a JSON object")
            version = about.get("version")
            if type(version) is not int or version not in (1, STATE_VERSION):
                raise ValueError(f"state version {shown(version)}, this etam-edge reads 1 and {STATE_VERSION}")
            if about.get("bundle") != bundle.identity:
                raise InputError(f"{path} was saved with another bundle than {bundle.path}; resume it with its own")
            return _state(about, members, bundle)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no saved session at {path}; write one with session.save()") from None
    except Exception as error:  # On arbitrary bytes, zipfile and NumPy raise exceptions of many kinds.
        raise InputError(
            f"{path} is not a saved session, or is damaged ({why(error)}); save the session again"
        ) from error


def _state(about: dict[str, Any], members: Npz, bundle: Bundle) -> SessionState:
    """
    Raises:
        ValueError, KeyError, TypeError: the description or an array is not one of a session of this bundle.
    """
    spec, sizes = bundle.manifest.model, bundle.manifest.sizes
    version, stated = about["version"], about.pop("sha256", None)
    known = {"version", "bundle", "options", "frame_index", "frame_shape", "prompted", "objects"}
    require(set(about) == known, "its description has other fields")
    options = _options(about["options"], version)
    index, shape = _whole(about["frame_index"], -1, MAX_INDEX, "frame_index"), about["frame_shape"]
    require((shape is None) == (index == -1), "it has frames without a shape, or a shape without frames")
    if shape is not None:
        require(isinstance(shape, list) and len(shape) == 2, "frame_shape is not [H, W]")
        shape = tuple(_whole(side, 1, MAX_FRAME_PIXELS, "frame_shape") for side in shape)
        require(math.prod(shape) <= MAX_FRAME_PIXELS, f"its frames have {math.prod(shape)} pixels")
        require(sizes.frame_size in (None, shape), f"its frames are {shape}, and the bundle takes {sizes.frame_size}")

    rows, prompted = about["objects"], about["prompted"]
    require(isinstance(rows, list) and isinstance(prompted, list), "objects or prompted is not a list")
    require(len(rows) <= options.max_objects, f"it has {len(rows)} objects, and room for {options.max_objects}")
    memories: dict[int, ObjectMemory] = {}
    places: list[int] = []
    for place, pair in enumerate(rows):
        require(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict), "an object is not [id, memory]"
        )
        object_id, memory = check_object_id(pair[0]), dict(pair[1])
        places.append(_whole(memory.pop("row"), 0, len(rows) - 1, "row") if version > 1 else place)
        memories[object_id] = ObjectMemory.from_dict(spec, sizes, memory, index)
    require(len(memories) == len(set(places)) == len(rows), "two objects share an id or a row")
    require(all(type(one) is int and one in memories for one in prompted), "prompted names no objects")
    require(all(memories[one].is_conditioning(index) for one in prompted), "an object was prompted and is not held")

    low, width = spec.mask_size, spec.width
    wanted = {f"buffer_{name}": tensor for name, tensor in kept_tensors(bundle, len(rows)).items()} if rows else {}
    optional: dict[str, TensorSpec] = {}
    for object_id in memories:
        for name, dtype, size in (
            ("mask_logits", "float32", (low, low)),
            ("iou", "float64", ()),
            ("object_score", "float64", ()),
            ("object_pointer", "float32", (width,)),
            ("mask_choice", "int64", ()),
        ):
            wanted[f"answer_{object_id}_{name}"] = TensorSpec(name, dtype, size)
        if sizes.frame_size is not None and object_id not in prompted:
            optional[f"answer_{object_id}_mask"] = TensorSpec("mask", "bool", sizes.frame_size)
    arrays = members.arrays(wanted, optional, also={"about"})
    require(version == 1 or stated == _digest(about, arrays), "its sha256 is not that of its content")
    for name, array in arrays.items():
        # The conditioned features of an object that was just prompted are not read, and may be anything.
        read = array
        if name == "buffer_conditioned_features":
            read = array[[place for one, place in zip(memories, places, strict=True) if one not in prompted]]
        require(array.dtype.kind != "f" or all_finite(read), f"{name} is NaN or infinite")
    objects = {
        object_id: SavedObject(place, memory, _decoder_output(arrays, object_id), object_id in prompted)
        for (object_id, memory), place in zip(memories.items(), places, strict=True)
    }
    for object_id, one in objects.items():
        _whole(one.output.mask_choice, -1, 3, f"mask_choice of object {object_id}")
    return SessionState(
        bundle=bundle.identity,
        options=options,
        frame_index=index,
        frame_shape=shape,
        objects=objects,
        buffers={name.removeprefix("buffer_"): array for name, array in arrays.items() if name.startswith("buffer_")},
    )


def _options(value: Any, version: int) -> SessionOptions:
    names = {one.name for one in fields(SessionOptions)}
    require(isinstance(value, dict), "its options are not those of a session")
    if version == 1:
        # The first states have no `resize`: sessions resized in one way only.
        value = {"resize": "exact", **value}
    require(set(value) == names, "its options are not those of a session")
    options = SessionOptions(**value)
    require(type(options.corrections_condition) is bool, "corrections_condition is not true or false")
    _whole(options.max_objects, 1, MAX_INDEX, "max_objects")
    return options


def _decoder_output(arrays: Mapping[str, np.ndarray], object_id: int) -> DecoderOutput:
    names = {field.name: f"answer_{object_id}_{field.name}" for field in fields(DecoderOutput)}
    values: dict[str, Any] = {name: arrays[key] for name, key in names.items() if name != "mask" or key in arrays}
    return DecoderOutput(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})


def _digest(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the description and of the name, type, shape and content of every array."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {arrays[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return digest.hexdigest()


def _whole(value: Any, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is {shown(value)}, not a whole number from {least} to {most}")
    return value
