"""`etam-edge demo`: from a checkpoint to tracked videos, by the commands a user would type."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etam_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np

RATE = 15.0
"""Frames per second of the drawn clip."""
SCORED = (("chair", "reflection", 2), ("crossing", "ball", 1), ("crossing", "box", 2))
"""Clip, name and id of the objects whose true masks are known."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the bundle and the videos.")] = Path("out/demo"),
    model: Annotated[
        str | None,
        typer.Option(help="Model to show; `etam-edge models` lists them.", show_default="etam_nano, in the package"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint file of that model.")] = None,
) -> None:
    """Export a model, track a real clip and a drawn one, and say how well it did. Needs no network."""
    from etam_edge.cli.console import next_command, out
    from etam_edge.cli.export import export
    from etam_edge.cli.track import track
    from etam_edge.clips import CHAIR_VIDEO, chair_masks, chair_outline, crossing
    from etam_edge.clips.sources import import_opencv

    import_opencv()  # its absence is said before the model is exported
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output} cannot be made ({error.strerror}); name another folder") from error
    bundle = output / "bundle"
    _show("export", "--output", bundle, "--overwrite", model=model, checkpoint=checkpoint)
    export(model=model, checkpoint=checkpoint, output=bundle, overwrite=True)

    frames, drawn_truth = crossing()
    real_truth = chair_masks()
    clips = {
        "chair": (
            CHAIR_VIDEO,
            _write_prompts(output, "chair", {"chair": chair_outline(), "reflection": real_truth[0]}),
        ),
        "crossing": (
            _write_video(output / "crossing.mp4", frames),
            _write_prompts(output, "crossing", dict(zip(("ball", "box"), drawn_truth[0], strict=True))),
        ),
    }
    results = {}
    for name, (video, prompts) in clips.items():
        overlay, masks = output / f"{name}_tracked.mp4", output / f"{name}_masks"
        arguments: dict[str, Any] = {"prompts": prompts, "output": overlay, "masks": masks}
        _show("track", bundle, video, **arguments)
        track(bundle, str(video), **arguments)
        results[name] = overlay, masks

    out.print()
    truths = (real_truth, drawn_truth[:, 0], drawn_truth[:, 1])
    _table({name: masks for name, (_, masks) in results.items()}, truths)
    out.print("The overlay videos:")
    for overlay, _ in results.values():
        out.print(f"  {overlay}", markup=False, soft_wrap=True)
    next_command(f"etam-edge track {shlex.quote(str(bundle))} YOUR_VIDEO.mp4 --box X0,Y0,X1,Y1")


def _show(*words: object, **options: object) -> None:
    """The command, as a user would type it."""
    from etam_edge.cli.console import out

    given = [(f"--{name}", value) for name, value in options.items() if value is not None]
    texts = [str(word) for word in (*words, *(part for pair in given for part in pair))]
    out.print(f"\n$ etam-edge {shlex.join(texts)}", markup=False, highlight=False, soft_wrap=True)


def _write_video(path: Path, frames: np.ndarray) -> Path:
    import numpy as np

    from etam_edge.clips.sources import import_opencv

    cv2 = import_opencv()
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (width, height))
    if not writer.isOpened():
        raise InputError(f"{path} cannot be written; name another --output")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def _write_prompts(folder: Path, clip: str, masks: dict[str, np.ndarray]) -> Path:
    """Masks of the first frame by the object's name, and the prompts file that gives them to objects 1, 2, ..."""
    import numpy as np
    from PIL import Image

    entries = []
    for number, (name, mask) in enumerate(masks.items(), 1):
        file = folder / f"{clip}_{name}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(file)
        entries.append({"frame": 0, "object": number, "mask": file.name})
    path = folder / f"{clip}_prompts.json"
    path.write_text(json.dumps(entries, indent=1))
    return path


def _table(folders: dict[str, Path], truths: Sequence[np.ndarray]) -> None:
    """How well each object of SCORED was held, from the PNG masks of its clip."""
    from rich.table import Table

    from etam_edge.cli.console import out

    table = Table("clip", "object", "mean J", "smallest J", caption="J: overlap with the true mask, 1 is perfect")
    for (clip, name, number), truth in zip(SCORED, truths, strict=True):
        values = _similarity(folders[clip], number, truth)
        table.add_row(clip, name, f"{sum(values) / len(values):.2f}", f"{min(values):.2f}")
    out.print(table)


def _similarity(folder: Path, number: int, truth: np.ndarray) -> list[float]:
    """J of the tracked frames where the object is in sight."""
    import numpy as np
    from PIL import Image

    from etam_edge.calibration.metrics import region_similarity

    values = []
    for file, mask in islice(zip(sorted(folder.glob("*.png")), truth, strict=True), 1, None):
        if mask.sum() > 50:
            values.append(float(region_similarity(np.asarray(Image.open(file)) == number, mask)))
    return values
