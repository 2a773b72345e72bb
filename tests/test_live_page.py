"""The page in a real browser: Chromium without a screen, driven through its own driver."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etam_edge import Tracker
from etam_edge.live.guard import Address
from etam_edge.live.loop import LiveLoop, LoopOptions, Sink
from etam_edge.live.reader import Delivery, FrameReader
from etam_edge.media import CHAIR_VIDEO
from etam_edge.media.prompt_plan import PromptPlan
from etam_edge.media.sources import open_source
from etam_edge_testing.live_sources import MadeUpCamera

pytest.importorskip("av")
pytest.importorskip("uvicorn", reason='the page needs pip install "etam-edge[live]"')
webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None, reason="Debian's packages chromium and chromium-driver are not installed"
    ),
]
SCREENSHOTS = os.environ.get("ETAM_EDGE_SCREENSHOTS")
"""A folder for screenshots, to look at."""
CHAIR = (0.24, 0.25)
"""A place on the back of the chair on most frames, as shares of width and height."""


class Page:
    """The page in a browser window of width x height."""

    def __init__(self, url: str, width: int, height: int, mobile: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(word)
        options.add_argument(f"--window-size={width},{height}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        if mobile:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)
        self.until(lambda: self.find("#view").get_attribute("data-snapshot"))

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def rows(self) -> dict[int, Any]:
        """The listed objects, by id."""
        return {
            int(row.get_attribute("data-id")): row for row in self.driver.find_elements("css selector", "#objects li")
        }

    def ids(self) -> list[int]:
        """Ids of the listed objects, read in one step: rows may be removed at any time."""
        script = "return [...document.querySelectorAll('#objects li')].map((row) => Number(row.dataset.id))"
        return list(self.driver.execute_script(script))

    def centre(self, object_id: int) -> tuple[float, float, int] | None:
        """(x, y, pixels) of an object's mask on the page, in pixels of the frame; None where it has none."""
        script = f"return document.querySelector('#objects li[data-id=\"{object_id}\"]')?.dataset.centre ?? null"
        found = self.driver.execute_script(script)
        return None if found is None else json.loads(found)

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                self.screenshot("failed")
                pytest.fail(f"it did not happen; the page says {self.find('#toast').text!r} and {self.errors()}")
            time.sleep(0.05)
        return found

    def act(self, steps: Callable[[Any], Any]) -> None:
        steps(webdriver.ActionChains(self.driver, duration=20)).perform()

    def to(self, actions: Any, x: float, y: float) -> Any:
        """Move to a place of the picture, given as shares of its width and height."""
        view = self.find("#view")
        size = view.size
        return actions.move_to_element_with_offset(
            view, round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
        )

    def click(self, x: float, y: float, shift: bool = False) -> None:
        keys = webdriver.Keys
        if shift:
            self.act(lambda actions: self.to(actions.key_down(keys.SHIFT), x, y).click().key_up(keys.SHIFT))
        else:
            self.act(lambda actions: self.to(actions, x, y).click())

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.act(lambda actions: self.to(self.to(actions, x0, y0).click_and_hold(), x1, y1).release())

    def screenshot(self, name: str) -> None:
        if SCREENSHOTS:
            self.driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def opened(url: str, width: int = 1280, height: int = 860, mobile: bool = False) -> Iterator[Page]:
    page = Page(url, width, height, mobile)
    try:
        yield page
        assert page.errors() == []
    finally:
        page.driver.quit()


@pytest.fixture(scope="module")
def chair() -> list[np.ndarray]:
    return [frame.pixels for frame in open_source(str(CHAIR_VIDEO))]


@contextmanager
def tracking(
    bundle: Path, frames: list[np.ndarray], rate: float = 10, options: LoopOptions | None = None
) -> Iterator[tuple[str, LiveLoop]]:
    """The page's address and the loop of a run in a thread: the clip, forwards and backwards again and again."""
    from etam_edge.live.server import PageServer

    there_and_back = [*frames, *frames[-2:0:-1]]
    controlled = options is not None and options.controlled
    camera = MadeUpCamera(
        lambda number: there_and_back[number % len(there_and_back)], 100_000, 0 if controlled else rate
    )
    greeting = {
        "source": "chair",
        "model": "etam_nano",
        "mode": "controlled" if controlled else "live",
        "maxObjects": 4,
        "saves": controlled,
    }
    stopped = threading.Event()
    with Tracker.load(bundle, threads=1) as tracker, tracker.start_session(True, max_objects=4) as session:
        server = PageServer(Address(port=0), None, greeting)
        with server, FrameReader(camera, delivery=Delivery(every_frame=controlled)) as reader:
            loop = LiveLoop(session, reader, PromptPlan([]), {}, Sink(), server, options or LoopOptions())
            server.attach(loop)
            thread = threading.Thread(target=loop.run, args=(stopped.is_set,))
            thread.start()
            try:
                yield server.url, loop
            finally:
                stopped.set()
                thread.join()


def test_an_object_is_clicked_followed_corrected_named_and_removed(nano_bundle: Path, chair: list[np.ndarray]) -> None:
    with tracking(nano_bundle, chair) as (url, loop), opened(url) as page:
        page.screenshot("1_empty")
        # Freeze to aim, click on the chair's back: the mask appears on the frozen picture.
        page.find("#freeze").click()
        page.until(lambda: page.find("#freeze").text == "Go on")
        frozen = page.find("#view").get_attribute("data-index")
        page.click(*CHAIR)
        page.until(lambda: page.ids() == [1])
        assert page.until(lambda: page.centre(1))[2] > 500
        assert page.find("#view").get_attribute("data-index") == frozen
        page.screenshot("2_frozen_and_clicked")

        # It follows: its centre moves while the clip runs.
        page.find("#freeze").click()
        seen = []

        def moved() -> bool:
            centre = page.centre(1)
            if centre is not None:
                seen.append(centre[:2])
            return bool(seen) and bool(np.ptp(np.array(seen), axis=0).max() > 20)

        page.until(moved)
        page.screenshot("3_followed")

        # A Shift-click takes away: the click lands on the mask, which becomes smaller there.
        page.find("#freeze").click()
        page.until(lambda: page.find("#freeze").text == "Go on")
        x, y, _ = page.until(lambda: page.centre(1))
        before = loop.prompts_json()
        page.click(x / 720, y / 480, shift=True)
        page.until(lambda: loop.prompts_json() != before)
        correction = json.loads(loop.prompts_json())[-1]
        assert (correction["object"], correction["labels"], correction["refine"]) == (1, [0], True)
        assert np.hypot(*(np.array(correction["points"][0]) - (x, y))) < 3
        page.find("#freeze").click()

        # A box makes a second object, which gets a name.
        page.drag(0.7, 0.6, 0.95, 0.95)
        page.until(lambda: page.ids() == [1, 2])
        assert "box" in json.loads(loop.prompts_json())[-1]
        name = page.until(lambda: page.rows().get(2)).find_element("css selector", "input")
        name.send_keys("floor", webdriver.Keys.ENTER)
        page.until(lambda: '"label": "floor"' in loop.prompts_json())
        page.screenshot("4_two_objects")

        # "Correct": clicks outside the mask belong to the object, until Escape.
        page.rows()[1].find_element("css selector", "button").click()
        assert "Correcting object 1" in page.find("#mode").text
        page.click(0.98, 0.02)
        page.until(lambda: json.loads(loop.prompts_json())[-1].get("labels") == [1] and len(page.ids()) == 2)
        assert json.loads(loop.prompts_json())[-1]["refine"]
        page.screenshot("5_correcting")
        page.act(lambda actions: actions.send_keys(webdriver.Keys.ESCAPE))
        assert "Click adds an object" in page.find("#mode").text

        # A page that is loaded again finds everything as it was.
        page.driver.refresh()
        page.until(lambda: page.ids() == [1, 2])
        assert page.rows()[2].find_element("css selector", "input").get_attribute("value") == "floor"

        page.rows()[1].find_elements("css selector", "button")[1].click()
        page.until(lambda: page.ids() == [2])
        page.find("#reset").click()
        page.driver.switch_to.alert.accept()
        page.until(lambda: page.ids() == [])
        assert loop.prompts_json() == "[]\n"


def test_a_phone_has_room_for_everything(nano_bundle: Path, chair: list[np.ndarray]) -> None:
    with tracking(nano_bundle, chair) as (url, _), opened(url, 390, 844, mobile=True) as page:
        page.click(*CHAIR)
        page.until(lambda: page.ids() == [1])
        page.until(lambda: page.find("#figures").text)
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        view = page.find("#view").rect
        assert view["width"] > 350
        page.screenshot("6_phone")
        page.driver.execute_script("scrollTo(0, 600)")
        page.screenshot("7_phone_scrolled")


def test_a_file_is_played_paused_and_finished_from_the_page(nano_bundle: Path, chair: list[np.ndarray]) -> None:
    with tracking(nano_bundle, chair, options=LoopOptions(controlled=True)) as (url, loop), opened(url) as page:
        page.until(lambda: page.find("#state").text == "paused")
        assert page.find("#view").get_attribute("data-index") == "0"
        page.click(*CHAIR)
        page.until(lambda: page.ids() == [1])
        page.find("#step").click()
        page.until(lambda: page.find("#view").get_attribute("data-index") == "1")
        page.screenshot("8_prompt")
        page.find("#play").click()
        page.until(lambda: int(page.find("#view").get_attribute("data-index")) > 5)
        page.find("#play").click()
        page.until(lambda: page.find("#state").text == "paused")
        page.find("#finish").click()
        page.until(lambda: loop._finished)
        (entry,) = json.loads(loop.prompts_json())
        assert entry["frame"] == 0
        assert np.hypot(entry["points"][0][0] - CHAIR[0] * 720, entry["points"][0][1] - CHAIR[1] * 480) < 3
