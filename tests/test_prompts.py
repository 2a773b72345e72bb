"""Prompts, ids and options: what a caller passes is taken or refused in a sentence, and a refusal changes nothing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from conftest import SmallBundleMaker
from PIL import Image

from etam_edge import Prompt, Session, Tracker
from etam_edge.errors import InputError, shown
from etam_edge.spec import Pooling
from etam_edge_testing.fuzz import Outcomes, attempts, strange_value
from etam_edge_testing.small import clip_frame

pytest.importorskip("onnxruntime")

CLICK = Prompt(points=[(64, 88)], labels=[1])
HEIGHT, WIDTH = 96, 160
LONG = 10**4999


@pytest.fixture(scope="module")
def tracker(small_bundle: SmallBundleMaker) -> Tracker:
    return Tracker.load(small_bundle(Pooling.SCORE_BIAS), "onnxruntime", provider="cpu", threads=1)


@pytest.fixture
def session(tracker: Tracker) -> Session:
    return tracker.start_session()


class Raising:
    """What asks it for an array or a text gets an error that nobody expects."""

    def __array__(self, *_: object) -> np.ndarray:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise KeyError("repr")


def masked(values: Any) -> np.ma.MaskedArray:
    array = np.ma.array(values)
    array[0] = np.ma.masked
    return array


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nested labels": (
        {"points": [(1, 2), (3, 4)], "labels": [1, [0]]},
        "labels .* are not numbers",
    ),
    "huge labels": ({"points": [(1, 2)], "labels": [10**400]}, "labels .* are not numbers"),
    "labels of text": ({"points": [(1, 2)], "labels": ["1"]}, "labels .* are not numbers"),
    "fractions as labels": ({"points": [(1, 2)], "labels": [0.5]}, "give 1 for on the object"),
    "NaN as label": ({"points": [(1, 2)], "labels": [np.nan]}, "give 1 for on the object"),
    "masked labels": ({"points": [(1, 2)], "labels": masked([1])}, "labels .* are not numbers"),
    "huge points": ({"points": [(10**400, 2)], "labels": [1]}, "points .* are not numbers"),
    "large floats": ({"points": [(1e300, 2)], "labels": [1]}, "lies outside the frame"),
    "complex points": ({"points": [(1 + 2j, 2)], "labels": [1]}, "points .* are not numbers"),
    "points of text": ({"points": [("1", "2")], "labels": [1]}, "points .* are not numbers"),
    "points of bytes": ({"points": b"12", "labels": [1]}, "points .* are not numbers"),
    "points of dates": ({"points": np.array([["2020", "2021"]], "M8[Y]"), "labels": [1]}, "are not numbers"),
    "masked points": (
        {"points": masked([(1.0, 2.0)]), "labels": [1]},
        "points .* are not numbers",
    ),
    "points that raise": ({"points": Raising(), "labels": [1]}, "points .* are not numbers"),
    "a mapping as points": ({"points": {1: 2}, "labels": [1]}, "points .* are not numbers"),
    "no points, of complex numbers": ({"points": np.zeros((0, 2), complex), "labels": []}, "is empty; give points"),
    "a nested box": ({"box": (1, 2, [3], 4)}, "box corners .* are not numbers"),
    "a huge box": ({"box": (0, 0, 10**400, 5)}, "box corners .* are not numbers"),
    "a box of text": ({"box": "1234"}, "box corners .* are not numbers"),
    "a masked box": ({"box": masked([1, 2, 3, 4])}, "box corners .* are not numbers"),
    "a masked mask": ({"mask": np.ma.array(np.ones((HEIGHT, WIDTH), bool))}, "is a masked array; give a bool array"),
    "a mask of objects": ({"mask": np.full((HEIGHT, WIDTH), None)}, "is object; give a bool array"),
    "a mask without axes": ({"mask": np.array(True)}, "has shape"),
    "no mask": ({"mask": np.zeros((0, 0), np.uint8)}, "has shape"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_prompt_is_refused(name: str, session: Session) -> None:
    fields, sentence = WRONG[name]
    with pytest.raises(InputError, match=sentence) as caught:
        session.track(clip_frame(0, HEIGHT, WIDTH), {1: Prompt(**fields)})
    assert "\n" not in str(caught.value)
    assert session.frame_index == -1


@pytest.mark.parametrize(
    "point",
    [(WIDTH - 1e-10, 0), (np.nextafter(WIDTH, 0), HEIGHT - 1e-10), (np.float32(3), np.int8(4)), (0, 0)],
)
def test_point_inside_by_a_hair_is_inside(point: tuple[Any, Any], session: Session) -> None:
    prompts = {1: Prompt(points=[point], labels=[1])}
    assert session.track(clip_frame(0, HEIGHT, WIDTH), prompts).object_ids == (1,)


@pytest.mark.parametrize("point", [(WIDTH, 0), (0, HEIGHT), (-1e-10, 0), (0, -1e-300)])
def test_point_outside_by_a_hair_is_outside(point: tuple[Any, Any], session: Session) -> None:
    with pytest.raises(InputError, match="lies outside the frame"):
        session.track(clip_frame(0, HEIGHT, WIDTH), {1: Prompt(points=[point], labels=[1])})


@pytest.mark.parametrize("labels", [[True, False], np.array([True, False]), (1.0, 0.0), np.array([1, 0], np.uint8)])
def test_labels_of_any_numbers_are_labels(labels: Any, session: Session) -> None:
    prompt = Prompt(points=[(1, 2), (3, 4)], labels=labels)
    assert session.track(clip_frame(0, HEIGHT, WIDTH), {1: prompt}).object_ids == (1,)


@pytest.mark.parametrize("object_id", [LONG, 2**63, -(2**63) - 1, 1.0, "1", None, True, (1,), Raising()], ids=shown)
def test_wrong_id_is_refused(object_id: Any, session: Session) -> None:
    session.track(clip_frame(0), {1: CLICK})
    for call in (
        lambda: session.track(clip_frame(1), {object_id: CLICK}),
        lambda: session.refine(object_id, CLICK),
        lambda: session.remove(object_id),
        lambda: session.object_pointer(object_id),
    ):
        with pytest.raises(InputError, match=r"object id .* (is not a whole number|needs more than 64 bits)"):
            call()
    assert session.track(clip_frame(1), {2**63 - 1: CLICK, -(2**63): CLICK}).object_ids == (1, 2**63 - 1, -(2**63))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_objects": "a"}, "max_objects must be a whole number from 1 to 1024, not 'a'"),
        ({"max_objects": 2.5}, "max_objects must be a whole number from 1 to 1024, not 2.5"),
        ({"max_objects": 10**6}, "max_objects must be a whole number from 1 to 1024, not 1000000"),
        ({"max_objects": LONG}, "max_objects must be a whole number from 1 to 1024, not a int"),
        ({"max_objects": True}, "max_objects must be a whole number"),
        ({"max_objects": np.nan}, "max_objects must be a whole number"),
        ({"fill_hole_area": 2**40}, "fill_hole_area must be a whole number from 0 to 16777216"),
        ({"fill_hole_area": None}, "fill_hole_area must be a whole number"),
        ({"resize": ["exact"]}, "resize .* is not known; use exact or fast"),
        ({"resize": np.array(["exact", "fast"])}, "resize .* is not known"),
        ({"corrections_condition": "yes"}, "corrections_condition must be true or false, not 'yes'"),
    ],
)
def test_wrong_option_of_a_session_is_refused(options: dict[str, Any], sentence: str, tracker: Tracker) -> None:
    with pytest.raises(InputError, match=sentence):
        tracker.start_session(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threads": 2**31}, "threads must be at most 1024, not 2147483648"),
        ({"threads": LONG}, "threads must be at most 1024, not a int"),
        ({"threads": 1.5}, "threads must be a whole number or 'auto', not 1.5"),
        ({"threads": np.array([1, 2])}, "threads must be a whole number or 'auto'"),
        ({"runtime": 5}, "runtime 5 is not known"),
        ({"runtime": ["auto"]}, "runtime .* is not known"),
        ({"provider": None}, "provider None is not known"),
        ({"device": LONG}, "device=a int is not the index of a GPU"),
        ({"device": 2**40}, "device=1099511627776 is not the index of a GPU"),
    ],
)
def test_wrong_option_of_a_tracker_is_refused(options: dict[str, Any], sentence: str, tracker: Tracker) -> None:
    with pytest.raises(InputError, match=sentence):
        Tracker.load(tracker.bundle.path, **options)


@pytest.mark.parametrize("path", [5, None, b"bundle", "a\0b", "\ud800", Raising()], ids=shown)
def test_wrong_path_of_a_bundle_is_refused(path: Any) -> None:
    with pytest.raises(InputError, match="`bundle` is"):
        Tracker.load(path)


def test_frames_that_cannot_be_used_are_refused(session: Session) -> None:
    truncated = Image.open("tests/data/chair/JPEGImages/frame_000000.jpg")
    truncated.fp.seek(0)
    for frame, sentence in (
        (np.ma.array(clip_frame(0)), "is a masked array"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "more than 268435456 pixels"),
        (Image.new("1", (20_000, 20_000)), "more than 268435456"),
        (Raising(), "is a Raising; give a NumPy array"),
        (np.zeros((4, 4, 3), dtype=object), "has type object"),
    ):
        with pytest.raises(InputError, match=sentence):
            session.track(frame)  # type: ignore[arg-type]
    assert session.frame_index == -1


def test_values_are_shown_in_one_short_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown(LONG) == "a int"
    assert shown(Raising()) == "a Raising"
    assert len(shown("x" * 5000)) < 70
    assert "\n" not in shown(np.zeros((50, 50)))


# --- fuzzer ---


def strange_numbers(source: random.Random, inside: bool) -> Any:
    """Something in place of a list of coordinates: often a good one, or one with a single fault."""
    points: list[Any] = [
        [source.uniform(0, WIDTH), source.uniform(0, HEIGHT)] for _ in range(source.choice([0, 1, 1, 2, 3, 9]))
    ]
    fault = source.randrange(12)
    if fault == 0 or inside:
        return points
    if fault == 1 and points:
        source.choice(points)[source.randrange(2)] = strange_value(source)
    elif fault == 2:
        return strange_value(source)
    elif fault == 3:
        return np.array(points).astype(source.choice(["f4", "f2", "c8", "i1", "u8", "S5", "O", "?", ">f8", "U3"]))
    elif fault == 4:
        return np.array(points).reshape(source.choice([(-1,), (1, -1), (-1, 1), (1, 1, -1)]))
    elif fault == 5 and points:
        return masked(points)
    elif fault == 6 and points:
        points[-1].append(3)
    elif fault == 7:
        return tuple(map(tuple, points))
    elif fault == 8 and points:
        points[0] = source.choice([(-1, 5), (WIDTH, 5), (5, HEIGHT), (1e-300, 1e-300), (WIDTH - 1e-12, 0.0)])
    return points


def strange_prompt(source: random.Random) -> Any:
    if source.random() < 0.05:
        return strange_value(source)
    kind = source.random()
    if kind < 0.5:
        points = strange_numbers(source, inside=source.random() < 0.5)
        count = len(points) if hasattr(points, "__len__") else 1
        labels: Any = [source.randrange(2) for _ in range(count)]
        if source.random() < 0.3:
            labels = strange_value(source)
        elif source.random() < 0.2 and labels:
            labels[0] = strange_value(source)
        return Prompt(points=points, labels=labels)
    if kind < 0.75:
        box = [source.uniform(-20, WIDTH / 2), source.uniform(-20, 40), source.uniform(0, 200), source.uniform(0, 120)]
        if source.random() < 0.3:
            box[source.randrange(4)] = strange_value(source)
        return Prompt(box=strange_value(source) if source.random() < 0.2 else box)
    mask: Any = np.zeros((HEIGHT, WIDTH), dtype=source.choice(["?", "u1", "u1", "f4", "i8", "O"]))
    mask[: source.randrange(HEIGHT + 1), : source.randrange(WIDTH + 1)] = source.choice([1, 255, 3, 0])
    if source.random() < 0.2:
        mask = source.choice([mask.T, mask[None], mask.tolist(), np.ma.array(mask), mask[:5], strange_value(source)])
    return Prompt(mask=mask)


def test_fuzzed_prompts(tracker: Tracker) -> None:
    """A twin that receives only what was accepted stays equal."""
    session, twin = (tracker.start_session(max_objects=4) for _ in range(2))
    outcomes = Outcomes()
    for number, source in enumerate(attempts(120)):
        prompt = strange_prompt(source)
        object_id: Any = source.choice([1, 2, 3, 4, 5]) if source.random() < 0.85 else strange_value(source)
        frame = clip_frame(number, HEIGHT, WIDTH)
        before = outcomes.counts["accepted"]
        refining = source.random() < 0.3
        what = f"{'refine' if refining else 'track'} {shown(object_id)} {shown(prompt)}"
        with outcomes.attempt(what):
            try:
                hash(object_id)
                prompts = {object_id: prompt}
            except TypeError:
                prompts = object_id
            result = session.refine(object_id, prompt) if refining else session.track(frame, prompts)
        if outcomes.counts["accepted"] > before:
            expected = twin.refine(object_id, prompt) if refining else twin.track(frame, prompts)
            np.testing.assert_array_equal(result.mask_logits, expected.mask_logits)
        if len(session.object_ids) == 4:
            for one in (session, twin):
                one.remove(session.object_ids[0] if one is session else twin.object_ids[0])
        assert (session.frame_index, session.object_ids) == (twin.frame_index, twin.object_ids)
    first, second = (one.track(clip_frame(0, HEIGHT, WIDTH)) for one in (session, twin))
    np.testing.assert_array_equal(first.mask_logits, second.mask_logits)
    outcomes.check(refused=40, accepted=20)
