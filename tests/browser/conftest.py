"""A real browser for the pages that rowrnn writes: Debian's chromium, driven by Playwright.

    def test_it_opens(open_page, tmp_path):
        opened = open_page(tmp_path / "page.html", width=390)
        assert not opened.errors
        assert not opened.requests
        opened.page.click("button")  # all of Playwright's sync API

Where chromium or Playwright is missing, every test that asks for `browser` or `open_page` is
skipped and says why.

A module makes all that it shows in a fixture called `made`, of module scope, which `browser` waits
for: while a browser is open, Playwright's event loop is the running one of this process, in which
`asyncio.run` fails. (Orbax copes with that today.)
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# Root, as in a container of CI, has no sandbox; and there is no room in its /dev/shm.
_FLAGS = ("--no-sandbox", "--disable-dev-shm-usage")


@dataclass
class Opened:
    """A page in the browser, and what it has done since it was opened.

    Attributes:
        page: the page, as Playwright gives it.
        errors: console errors (also what its Content-Security-Policy forbade) and exceptions that
            nobody caught.
        requests: addresses that it asked for beside its own file; those that hold their content
            (data:, blob:) are none.
    """

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def box(self, element: "Locator") -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in pixels; all 0 where it is not shown."""
        box = element.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
        return box["x"], box["y"], box["width"], box["height"]

    def colours(self, element: "Locator") -> int:
        """How many colours an element is painted in; 1 is a blank."""
        import io

        from PIL import Image

        image = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
        return len(image.getcolors(image.width * image.height) or ())

    def sideways(self) -> int:
        """By how many pixels the page can be scrolled sideways."""
        width = "document.documentElement"
        return self.page.evaluate(f"{width}.scrollWidth - {width}.clientWidth")


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def made() -> None:
    """What a module shows; one that trains a network overrides it, see above."""


@pytest.fixture(scope="module")
def browser(made: Any) -> "Iterator[Browser]":
    """One chromium for all tests of a module."""
    driver = pytest.importorskip(
        "playwright.sync_api", reason="no browser tests: the package playwright is not installed"
    )
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no browser tests: chromium is not installed (apt-get install chromium)")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """A function that opens a file in a tab of its own, closed after the test.

    ``open_page(path, *, width=1280, height=900, dark=False, **context)``: pixels of the window,
    whether the system asks for dark pages, and whatever else Playwright's `new_context` takes,
    such as ``has_touch=True``. It returns when the page has loaded.
    """
    contexts = []

    def open_file(
        path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, **context: Any
    ) -> Opened:
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                **context,
            )
        )
        opened = Opened(contexts[-1].new_page())
        address = Path(path).absolute().as_uri()

        def note_request(request: Any) -> None:
            url = request.url.partition("#")[0]
            if url != address and not url.startswith(("data:", "blob:")):
                opened.requests.append(request.url)

        def note_console(message: Any) -> None:
            if message.type == "error":
                opened.errors.append(message.text)

        opened.page.on("request", note_request)
        opened.page.on("console", note_console)
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.goto(address)
        return opened

    yield open_file
    for context in contexts:
        context.close()
