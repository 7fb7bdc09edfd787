"""The page has all its parts, escapes what users wrote, needs no network, and stays small."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcache.eval.report import pictures, report
from dcache.eval.store import Store

Run = tuple[Store, dict[str, Any]]
VOID = {"meta", "link", "img", "input", "path"}


class Page(HTMLParser):
    """The elements of a page, in order: tag, attributes, text directly inside; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.elements[self.open[-1]][2].append(data)

    def find(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of the elements with this tag and these attributes."""
        return [
            (its, "".join(text).strip())
            for name, its, text in self.elements
            if name == tag and attributes.items() <= its.items()
        ]


@pytest.fixture
def text(run: Run) -> str:
    return report(*run)[0].read_text(encoding="utf-8")


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


def picture(source: str) -> np.ndarray[Any, Any]:
    """The pixels of a `data:` address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))


def test_the_page_has_every_part(page: Page) -> None:
    sections = [its["id"] for its, _ in page.find("section") if "id" in its]
    assert sections == ["table", "plot", "pictures", "schedules", "notes", "setup"]
    assert [its["href"][1:] for its, _ in page.find("a")] == sections
    assert [text for _, text in page.find("caption")] == ["Methods", "Settings", "Machine", "Versions"]
    assert page.find("code")[-1][1] == "dcache.enable(pipe, 'black')"


def test_the_table_has_every_method_and_marks_the_best_and_the_broken(page: Page) -> None:
    assert [text for its, text in page.find("th", scope="row") if "title" in its] == [
        "uncached", "half", "close", "black",
    ]  # fmt: skip
    assert "2.00×" in [text for _, text in page.find("td", **{"class": "best"})]
    assert [its["title"] for its, _ in page.find("strong")] == ["2 of 2 pictures are constant"]
    assert {"title": "2 of 2 pictures are constant"} in [its for its, text in page.find("td") if text == "–"]
    assert [text for its, text in page.find("option") if "selected" in its] == ["PSNR (dB)"]


def test_the_schedule_of_each_method_is_drawn(page: Page) -> None:
    (drawn,) = {its["d"] for its, _ in page.find("path", **{"class": "computed"})}
    # attn:0 is computed at 0 and 2, mlp:0 always.
    assert re.findall(r"M(\d \d)", drawn) == ["0 0", "2 0", "0 1", "1 1", "2 1", "3 1"]
    assert [text for _, text in page.find("li")].count("attn:0") == 3


def test_what_users_wrote_is_text(text: str, page: Page) -> None:
    assert "boom()</script>" not in text
    assert "<b>snow" not in text
    assert ("</script><script>boom()</script>") in [found for _, found in page.find("span")]
    assert page.find("h1")[0][1] == "<toy>"
    (data,) = page.find("script", id="data")
    assert json.loads(data[1])["pipeline"]["name"] == "<toy>"
    assert len(page.find("script")) == 3


def test_the_page_asks_for_nothing(page: Page) -> None:
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[0]["content"].startswith("default-src 'none'; img-src data:;")
    addresses = [its[key] for _, its, _ in page.elements for key in ("src", "href") if key in its]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"url\(|@import", page.find("style")[0][1])


def test_pictures_are_those_of_the_run_and_have_names(run: Run, page: Page) -> None:
    store, _ = run
    images = [its for its, _ in page.find("img")]
    assert len(images) == 9 * 4
    assert images[1]["alt"] == "half: a fox | in <b>snow</b>, seed 7"
    for image, entry in zip(images, store.methods, strict=False):
        assert np.array_equal(picture(image["src"]), store.picture(entry, store.items[0]))
    # PSNR of the second picture of `half`; nothing stands below broken ones.
    assert [found for _, found in page.find("small")].count("31.0") == 1


def test_a_clip_is_a_strip_of_its_frames(make: Any) -> None:
    store, scores = make(3, 8, 12)
    page = Page(report(store, scores)[0].read_text(encoding="utf-8"))
    clip = store.picture(store.methods[1], store.items[0])
    assert clip.shape == (3, 8, 12, 3)
    assert np.array_equal(picture(page.find("img")[1][0]["src"]), clip.reshape(24, 12, 3))
    assert page.find("section", id="pictures")[0][0]["style"] == "--frames: 3; --ratio: 12 / 8"
    assert page.find("input", id="frame")[0][0]["max"] == "2"


def test_pictures_that_are_too_many_bytes_are_reduced_and_the_page_says_so(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scores = make(200, 140, each=1)
    monkeypatch.setattr(pictures, "BUDGET", 140_000)
    found = pictures.gallery(store)
    assert sum(len(source) for row in found.sources for source in row) <= 140_000
    assert found.reduced == "WebP of at most 128 pixels a side"
    assert picture(found.sources[0][0]).shape == (128, 90, 3)
    assert found.reduced in report(store, scores)[0].read_text(encoding="utf-8")


def test_a_page_shows_one_picture_of_each_prompt_before_a_second(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = run
    monkeypatch.setattr(pictures, "MOST_PICTURES", 4 * 4)
    assert [item.seed for item in pictures.gallery(store).items] == [7, 8, 10, 13]
    monkeypatch.setattr(pictures, "MOST_PICTURES", 1)
    assert [item.seed for item in pictures.gallery(store).items] == [7]
