"""The report in a real browser: headless Chromium, where there is one."""

from __future__ import annotations

import base64
import json
import shutil
import warnings

import pytest

import scvibridge as sb

selenium = pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import NoAlertPresentException  # noqa: E402
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the path"
)

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "<svg onload=alert(3)>")
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def page(trained_model, tmp_path_factory):
    """A report whose genes, batches, types and title look like HTML."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = sb.corrected_counts(
            trained_model,
            transform_batch="V3",
            labels_key="cell_type",
            condition_key="condition",
            normalized=True,
            progress=False,
        )
    made.var_names = [*HOSTILE, *made.var_names[3:]]
    for column in ("batch", "cell_type"):
        names = dict(zip(made.obs[column].cat.categories, HOSTILE, strict=True))
        made.obs[column] = made.obs[column].cat.rename_categories(names)
    made.uns["scvibridge"]["transform_batch"] = HOSTILE[2]
    out = tmp_path_factory.mktemp("page") / "report.html"
    return sb.report(made, out, title=HOSTILE[1], progress=False)


@pytest.fixture(scope="module")
def browser(page):
    """Chromium that has opened the page."""
    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def show(browser, size):
    width, height = size
    settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)


def test_console_is_silent_and_nothing_is_requested(browser, page):
    messages = [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert messages == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in requested
    assert {url.split(":")[0] for url in requested if url != page.as_uri()} <= {"data"}


def test_names_open_no_alert(browser):
    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.accept()
    assert browser.title == HOSTILE[1]
    text = browser.execute_script("return document.body.innerText")
    assert all(name in text for name in HOSTILE)
    assert browser.execute_script("return document.scripts.length") == 0


def test_all_pictures_load(browser):
    widths = browser.execute_script("return Array.from(document.images, i => i.naturalWidth)")
    assert len(widths) == 11
    assert min(widths) > 300


def test_style_is_allowed_by_the_policy(browser):
    colour = browser.execute_script(
        "return getComputedStyle(document.querySelector('header')).backgroundColor"
    )
    assert colour == "rgb(15, 43, 66)"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_text_is_readable(browser, size):
    show(browser, size)
    small = browser.execute_script(
        """
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const small = [];
        while (walker.nextNode()) {
          if (!walker.currentNode.data.trim()) continue;
          const found = getComputedStyle(walker.currentNode.parentElement);
          if (parseFloat(found.fontSize) < 14) small.push(walker.currentNode.data);
        }
        return small;
        """
    )
    assert small == []
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    outside = browser.execute_script(
        "return Array.from(document.querySelectorAll('p, h1, h2, h3, li, pre, .picture'))"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).length"
    )
    assert outside == 0


def test_text_has_contrast(browser):
    """Text against the nearest background: at least 4.5 to 1, as WCAG AA asks."""
    show(browser, DESKTOP)
    found = browser.execute_script(
        """
        const light = c => {
          const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = e => {
          for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c;
          }
          return 'rgb(255, 255, 255)';
        };
        const all = Array.from(document.querySelectorAll('body *'))
          .filter(e => Array.from(e.childNodes).some(n => n.nodeType === 3 && n.data.trim()));
        return all.map(e => {
          const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        });
        """
    )
    assert len(found) > 100
    assert min(found) >= 4.5


def test_page_prints(browser):
    printed = browser.execute_cdp_cmd(
        "Page.printToPDF", {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69}
    )
    content = base64.b64decode(printed["data"])
    assert content.startswith(b"%PDF-")
    assert 4 <= content.count(b"/Type /Page\n") <= 15
