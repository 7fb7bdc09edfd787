"""The page in a real browser, where there is one: from the prompt to both pictures, on a phone and a desk."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dcache.eval.studio.studio import Studio
from tests.eval.studio.conftest import LONGEST, Client

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MILLISECONDS = LONGEST * 1000
# The pixels of an image on the page, as it was decoded.
PIXELS = """(id) => {
  const image = document.getElementById(id), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, client: Client, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at a width, light or dark; errors on its console and requests that leave the server fail."""
    width, scheme = request.param
    tab, faults = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}), []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda asked: None if asked.url.startswith(client.address) else faults.append(asked.url),
    )
    tab.set_default_timeout(MILLISECONDS)
    tab.goto(client.address)
    tab.wait_for_selector("html[data-ready=yes]")
    yield tab
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.close()
    assert faults == []


def run(page: Any, **fields: str) -> None:
    """Fill the form in and press the button; waits for the end."""
    before = page.locator("#rows tr").count()
    for name, value in fields.items():
        if name == "method":
            page.select_option("#method", value)
        else:
            page.fill(f"#{name}", value)
    page.click("#run")
    page.wait_for_selector(f"#rows tr:nth-child({before + 1})")
    page.wait_for_selector("#run:not([disabled])")


SIZES = [(390, "dark"), (1280, "light")]


@pytest.mark.parametrize("page", SIZES, indirect=True, ids=["phone", "desk"])
def test_a_user_compares_two_methods(page: Any, studio: Studio) -> None:
    # The studio is that of all tests: a seed of its own for each window.
    seed = str(page.viewport_size["width"])
    run(
        page,
        prompt="a small red heart",
        seed=seed,
        steps="4",
        method="interval",
        options="interval=2,warmup=1",
    )
    number = int(page.inner_text("#rows tr:first-child button"))
    comparison = studio.comparisons.get(number)
    assert comparison is not None
    assert comparison.form.prompt == "a small red heart"
    for side in ("uncached", "cached"):
        page.evaluate("(id) => document.getElementById(id).decode()", side)
    shown = {
        side: np.array(page.evaluate(PIXELS, side)).reshape(64, 64, 4) for side in ("uncached", "cached")
    }
    assert not np.array_equal(shown["uncached"], shown["cached"])
    difference = np.abs(shown["uncached"] - shown["cached"])[..., :3].astype(float)
    psnr = 10 * np.log10(255**2 / (difference**2).mean())
    figures = dict(
        zip(
            page.locator("#figures dt").all_inner_texts(),
            page.locator("#figures dd").all_inner_texts(),
            strict=True,
        )
    )
    assert figures["PSNR"] == f"{psnr:.1f} dB"
    assert figures["computed"] == "50 %"

    # The map: two computed squares, and what one stands for.
    assert page.get_attribute("#map path.computed", "d") == "M0 0h1v1h-1zM2 0h1v1h-1z"
    page.focus("#map svg")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#cell") == "evaluation 1, trunk: predicted"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#cell") == "evaluation 2, trunk: computed (interval)"


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["desk"])
def test_the_wipe_and_the_runs(page: Any, studio: Studio) -> None:
    run(page, prompt="a large green star", steps="4", method="interval", options="interval=2,warmup=1")
    number = int(page.inner_text("#rows tr:first-child button"))
    comparison = studio.comparisons.get(number)
    assert comparison is not None

    # The wipe, by its slider and by the pointer.
    page.check("[name=mode][value=wipe]", force=True)
    page.focus("#wipe")
    page.keyboard.press("ArrowLeft")
    clip = "getComputedStyle(document.getElementById('cached')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 49%)"
    page.locator("#compared").scroll_into_view_if_needed()
    box = page.locator("#compared").bounding_box()
    page.mouse.move(box["x"] + 1 + (box["width"] - 2) / 4, box["y"] + 9)
    assert page.input_value("#wipe") == "25"
    page.check("[name=mode][value=difference]", force=True)
    assert page.evaluate("getComputedStyle(document.getElementById('compared')).filter") == "brightness(8)"

    # The other method takes the uncached picture that is there.
    run(page, method="newton", options="interval=2,warmup=1")
    assert "remembered" in page.inner_text("#at-uncached")
    assert "dcache.methods.newton(interval=2, warmup=1)" in page.inner_text("#code")
    # Both lie in the plot, and a point leads back to its run.
    labels = [dot.get_attribute("aria-label") for dot in page.locator("#plot circle").all()]
    assert len(labels) == 2
    assert labels[0].startswith(f"run {number}, interval 2: {comparison.row.speedup:.2f}×, ")
    assert labels[0].endswith(f", {comparison.row.mean_psnr:.1f} dB")
    page.select_option("#by", "flops")
    by_operations = page.locator("#plot circle").first.get_attribute("aria-label")
    assert comparison.row.flops is not None
    assert by_operations.startswith(f"run {number}, interval 2: {1 / comparison.row.flops:.2f}×, ")
    page.locator("#plot circle").first.press("Enter")
    assert "dcache.methods.interval(interval=2, warmup=1)" in page.inner_text("#code")
    page.click("#rows button >> nth=0")
    assert "dcache.methods.newton" in page.inner_text("#code")
    page.click(f"#rows button[aria-label='show run {number}']")
    assert "dcache.methods.interval(interval=2, warmup=1)" in page.inner_text("#code")
    assert page.get_attribute("#schedule", "href") == f"/runs/{number}/schedule.json"


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["desk"])
def test_the_slider_the_stop_and_a_page_that_comes_back(page: Any, studio: Studio) -> None:
    assert page.input_value("#options") == "speedup=2"
    page.focus("#speedup")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#options") == "speedup=2.1"
    page.fill("#options", "speedup=3.5")
    assert page.input_value("#speedup") == "3.5"
    assert page.inner_text("#speedup-shown") == "3.5×"
    page.select_option("#method", "deepcache")
    assert "needs a UNet" in page.inner_text("#method-facts")
    assert page.is_hidden("#speedup-row")

    page.select_option("#method", "interval")
    page.fill("#steps", "1000")
    page.fill("#prompt", "a long call")
    page.press("#prompt", "Control+Enter")
    page.locator("#at-uncached", has_text=re.compile("step [1-9]")).wait_for()
    assert page.is_disabled("#run")
    page.reload()
    page.wait_for_selector("#stop:not([disabled])")
    assert "step" in page.inner_text("#at-uncached")
    page.click("#stop")
    page.wait_for_selector("#run:not([disabled])")
    assert "was stopped" in page.inner_text("#status")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["desk"])
def test_names_of_all_fields_can_be_read_aloud(page: Any) -> None:
    fields = page.locator("form :is(input, select, textarea, button)").all()
    names = [
        field.evaluate(
            "(e) => e.labels?.[0]?.textContent.trim() || e.getAttribute('aria-label') || e.textContent.trim()"
        )
        for field in fields
    ]
    assert len(names) >= 10
    assert all(names)


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["desk"])
def test_the_form_outlives_a_reload(page: Any) -> None:
    page.select_option("#method", "tuned")
    fields = {
        "prompt": "a small red heart",
        "seed": "7",
        "steps": "5",
        "guidance": "2.5",
        "options": "speedup=3",
    }
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.uncheck("#warm-up")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.input_value("#method") == "tuned"
    assert {name: page.input_value(f"#{name}") for name in fields} == fields
    assert (page.input_value("#speedup"), page.inner_text("#speedup-shown")) == ("3", "3×")
    assert not page.is_checked("#warm-up")


@pytest.mark.parametrize("page", SIZES[1:], indirect=True, ids=["desk"])
def test_a_page_of_another_server_loads_itself_again(page: Any, studio: Studio) -> None:
    page.evaluate("document.title = 'of the server before'")
    studio.events.publish("state", studio.state())
    studio.events.publish("progress", {"side": "cached", "phase": "timed", "done": 1, "total": 2})
    assert page.title() == "of the server before"
    with page.expect_event("load"):
        studio.events.publish("state", studio.state() | {"session": "another"})
    page.wait_for_selector("html[data-ready=yes]")
    assert page.title() == "demo · dcache studio"


def test_a_server_that_does_not_answer_is_said(chromium: Any, client: Client) -> None:
    tab = chromium.new_page()
    tab.goto(client.address)
    tab.wait_for_selector("html[data-ready=yes]")
    tab.route("**/runs", lambda route: route.abort())
    tab.click("#run")
    tab.wait_for_selector("#error:not([hidden])")
    assert "is `dcache studio` still running?" in tab.inner_text("#error")
    tab.close()
