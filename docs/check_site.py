"""Check the built site as a visitor finds it.

``python docs/check_site.py docs/_build AXE`` with ``AXE`` the file ``axe.min.js`` of
the npm package axe-core:

- links inside the site lead to files and anchors that exist;
- pages log no error in the browser's console, have no accessibility violation that axe
  knows, and are no wider than the window, at 1280 and at 390 pixels.

Needs Debian's packages chromium and chromium-driver, and selenium.
``--screenshots DIR`` keeps what the browser shows.
"""

import argparse
import functools
import http.server
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WIDTHS = {1280: 900, 390: 844}
PAGES = [
    "index.html",
    "auto_examples/plot_quickstart.html",
    "generated/skmfr.MFRSparseAutoencoder.html",
    "recovery.html",
    "user_guide/faq.html",
]
REPORT = "atom_report.html"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
AXE = """
const done = arguments[arguments.length - 1];
// The theme's search button shows its shortcut, which its label leaves out.
const rules = {"label-content-name-mismatch": {enabled: false}};
// scikit-learn's list of output features has a button in its summary.
const seen = {exclude: [[".sk-top-container .features"]]};
axe.run(seen, {runOnly: arguments[0], rules}).then(
    (found) => done(found.violations.map(
        (v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`
    )),
    (error) => done([String(error)])
);
"""


class Links(HTMLParser):
    """Targets of links, images and scripts on a page, and its anchors."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        self.targets |= {values[key] for key in ("href", "src") if values.get(key)}


def broken_links(site: Path) -> Iterator[str]:
    """Links to files or anchors of the site that are not there."""
    read = functools.cache(Links)
    for page in sorted(site.rglob("*.html")):
        if "_static" in page.relative_to(site).parts:
            continue
        for target in sorted(read(page).targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = page.parent / unquote(parts.path) if parts.path else page
            path = path.resolve()
            if path.is_dir():
                path /= "index.html"
            anchor = unquote(parts.fragment)
            if not path.exists():
                yield f"{page.relative_to(site)}: {target} is not there"
            elif anchor and path.suffix == ".html" and anchor not in read(path).anchors:
                yield f"{page.relative_to(site)}: {target} has no such anchor"


def write_report(site: Path) -> None:
    """An atom report, as users make it."""
    from sklearn.datasets import load_digits

    from skmfr import MFRSparseAutoencoder
    from skmfr.inspection import report

    X, _ = load_digits(return_X_y=True)
    sae = MFRSparseAutoencoder(16, k=3, max_steps=50, random_state=0).fit(X)
    report(sae, X, image_shape=(8, 8)).write_html(site / REPORT)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: failures show in the browser's console."""


def browser(profile: str):
    """A headless Chromium that fetches nothing of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "hide-scrollbars",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def faults(driver, address: str, axe: str) -> Iterator[str]:
    """What is wrong with a page in the window as it is."""
    driver.get_log("browser")
    driver.get(address)
    driver.execute_script(axe)
    yield from driver.execute_async_script(AXE, RULES)
    width, inner = driver.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    if width > inner:
        yield f"{width} pixels wide in a window of {inner}"
    yield from (
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon.ico" not in entry["message"]
    )


def seen_faults(site: Path, axe: str, screenshots: Path | None) -> Iterator[str]:
    """Faults of all pages at all widths."""
    handler = functools.partial(Quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver = browser(profile)
        # Long pages take their time where other programs run.
        driver.set_script_timeout(300)
        try:
            for width, height in WIDTHS.items():
                size = {"width": width, "height": height, "mobile": width < 500}
                driver.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    size | {"deviceScaleFactor": 1},
                )
                for page in [*PAGES, REPORT]:
                    address = f"http://127.0.0.1:{server.server_port}/{page}"
                    for fault in faults(driver, address, axe):
                        yield f"{page} at {width}: {fault}"
                    if screenshots:
                        name = page.replace("/", "-").removesuffix(".html")
                        driver.save_screenshot(str(screenshots / f"{name}-{width}.png"))
        finally:
            driver.quit()
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("axe", type=Path, nargs="?", help="without it, links alone")
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    found = list(broken_links(arguments.site.resolve()))
    if arguments.axe:
        write_report(arguments.site)
        axe = arguments.axe.read_text(encoding="utf-8")
        found += seen_faults(arguments.site, axe, arguments.screenshots)
    print(*found, sep="\n")
    sys.exit(f"{len(found)} faults" if found else 0)


if __name__ == "__main__":
    main()
