"""Look at the built site in a browser: `python tools/check_site.py [site] [--shots FOLDER]`.

Every page is opened at the widths of a phone and of a desk, light and dark. An error on the console, a
request that fails or leaves the site, or a page that is wider than its window is a fault. One name of each
page of the reference is typed into the search, which must lead to it. Needs playwright and a Chromium;
without one of them it says so and ends well, unless --required is given.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

WIDTHS = {"phone": 390, "desk": 1280}
SCHEMES = ("light", "dark")
# Menus glide when the window changes: milliseconds until a page that fits must fit.
FITS, SETTLED = "document.documentElement.scrollWidth <= window.innerWidth", 3000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of a browser that leaves a page before all of it was sent."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback of any other error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> int:
    """Returns 1 if a page has a fault, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", nargs="?", type=Path, default=Path("site"))
    parser.add_argument(
        "--pages", nargs="*", help="pages to open, such as api/front.html; all of them by default"
    )
    parser.add_argument("--shots", type=Path, help="folder for a picture of each")
    parser.add_argument("--required", action="store_true", help="no browser is an error")
    options = parser.parse_args()
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        print("the site was not opened in a browser: playwright or a Chromium is not installed")
        return int(options.required)
    handler = functools.partial(Quiet, directory=options.site)
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = options.pages or sorted(
        p.relative_to(options.site).as_posix() for p in options.site.rglob("*.html")
    )
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        faults = [fault for page in pages for fault in look(chromium, address, page, options.shots)]
        if not options.pages:
            faults += not_found(chromium, address, one_of_each(options.site))
        chromium.close()
    server.shutdown()
    print(*faults, f"{len(pages)} pages, two widths, light and dark: {len(faults)} faults", sep="\n")
    return int(bool(faults))


def look(chromium: Any, address: str, page: str, shots: Path | None) -> list[str]:
    """The faults of one page."""
    from playwright.sync_api import Error

    faults: list[str] = []
    for scheme in SCHEMES:
        tab = chromium.new_page(color_scheme=scheme)
        tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("requestfailed", lambda request: faults.append(f"{request.url} failed"))
        tab.on("request", lambda request: faults.extend(_elsewhere(address, request.url)))
        tab.goto(f"{address}/{page}", wait_until="load")
        for name, width in WIDTHS.items():
            tab.set_viewport_size({"width": width, "height": 844})
            try:
                tab.wait_for_function(FITS, timeout=SETTLED)
            except Error:
                wide = tab.evaluate("document.documentElement.scrollWidth")
                faults.append(f"{wide} pixels wide in a window of {width}")
            if shots is not None:
                shots.mkdir(parents=True, exist_ok=True)
                tab.screenshot(path=shots / f"{page.replace('/', '-')}.{name}.{scheme}.png")
        tab.close()
    return [f"{page}: {fault}" for fault in faults]


def one_of_each(site: Path) -> dict[str, str]:
    """A public name of each page of the reference -> its place in the site."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    entries = [(doc["location"], doc["title"].split()[0]) for doc in index if "api/" in doc["location"]]
    pages: dict[str, tuple[str, str]] = {}
    for location, name in entries:
        if re.fullmatch(r"dcache(\.\w+)+", name):
            pages.setdefault(location.partition("#")[0], (name, location))
    return dict(pages.values())


def not_found(chromium: Any, address: str, names: dict[str, str]) -> list[str]:
    """The names that the search does not lead to.

    Args:
        chromium: the browser.
        address: of the site.
        names: what is typed -> the place that must be among the results.
    """
    from playwright.sync_api import Error

    tab = chromium.new_page()
    tab.goto(f"{address}/index.html", wait_until="load")
    box, lost = tab.locator(".md-search__input"), []
    for name, place in names.items():
        box.fill(name)
        box.press("End")
        try:
            tab.wait_for_selector(
                f'.md-search-result__link[href$="#{place.partition("#")[2]}"]',
                timeout=20000,
                state="attached",
            )
        except Error:
            lost.append(f"search: {name} does not lead to {place}")
    tab.close()
    return lost


def _elsewhere(address: str, url: str) -> list[str]:
    return [] if url.startswith((address, "data:", "blob:")) else [f"asks {url}"]


if __name__ == "__main__":
    sys.exit(main())
