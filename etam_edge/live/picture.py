"""A snapshot as one message for the page: a header, a JPEG, and the map of masks.

    bytes 0-3   length of the header, unsigned, little endian
    header      JSON, UTF-8
    image       JPEG
    labels      uint8 (h, w), deflated: 0, or 1 + the place of an object in the header's list

The map has the size of the JPEG. Where masks overlap, a pixel belongs to the object with the higher score.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from etam_edge.live.loop import Snapshot
from etam_edge.media.overlay import colour

MAX_SIDE = 1280
"""Longer side of the picture in pixels, at most: frames are reduced for the page, never enlarged."""
JPEG_QUALITY = 80
DEFLATE_LEVEL = 1


def encode_picture(snapshot: Snapshot, max_side: int = MAX_SIDE) -> bytes:
    """The message of a snapshot.

    Raises:
        ValueError: the frame cannot be written as a JPEG.
    """
    pixels = snapshot.frame.pixels
    height, width = pixels.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    image = Image.fromarray(pixels)
    if scale < 1:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    labels = zlib.compress(_mask_map(snapshot, shape).tobytes(), DEFLATE_LEVEL)
    header = {
        "type": "picture",
        "snapshot": snapshot.number,
        "index": snapshot.frame.index,
        "timestamp": snapshot.frame.timestamp,
        "width": width,
        "height": height,
        "view": [shape[1], shape[0]],
        "image": buffer.tell(),
        "labels": len(labels),
        "objects": objects_of(snapshot),
    }
    text = json.dumps(header).encode()
    return b"".join((struct.pack("<I", len(text)), text, buffer.getvalue(), labels))


def objects_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What the page lists about the objects of a snapshot."""
    result = snapshot.result
    return [
        {
            "id": object_id,
            "label": snapshot.labels.get(object_id, ""),
            "colour": [int(channel) for channel in colour(object_id)],
            "score": round(float(result.object_scores[row]), 2),
            "iou": round(float(result.ious[row]), 3),
            "visible": bool(result.visible[row]),
        }
        for row, object_id in enumerate(result.object_ids)
    ]


def _mask_map(snapshot: Snapshot, shape: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w): masks at the nearest pixels of the reduced picture."""
    result = snapshot.result
    places = np.zeros(shape, dtype=np.uint8)
    height, width = snapshot.frame.pixels.shape[:2]
    rows = (np.arange(shape[0]) * 2 + 1) * height // (2 * shape[0])
    columns = (np.arange(shape[1]) * 2 + 1) * width // (2 * shape[1])
    for row in np.argsort(result.object_scores, kind="stable"):
        places[result.masks[row][rows[:, None], columns]] = row + 1
    return places
