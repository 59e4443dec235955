"""Pages as people see them, in a real browser: on a phone, at night, and with nothing asked of a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import CHROMIUM, Browser
from report_helpers import epoch, page, section, summary, write_run
from timeline_helpers import shared

from blocklocal.report.html import write_comparison, write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]
PHONE, DESK = 390, 1280
LONG = "a-name-that-nobody-would-give-to-a-class-but-somebody-will" * 3


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def crowded_run(folder: Path) -> Path:
    """All that a page can have: a timeline, many classes with long names, warnings, examples, long settings."""
    names = [f"{k} {LONG}" for k in range(30)]
    row = summary(combined_test_top1=92.0, block_names=[LONG, "middle", "head"])
    warning = {"event": "warning", "epoch": 2, "block": 1, "text": LONG}
    run = write_run(folder, row=row, epochs=[epoch(1), warning, epoch(2)], examples=True)
    counts = [[k, answered, 5] for k in range(30) for answered in {k, (7 * k) % 30}]
    (run / "confusion.json").write_text(json.dumps({"of": "classes", "names": names, "counts": counts}))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "note": LONG * 10}))
    shared(run)
    return run


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    scores = {"block-local": [93.0, 94.0], "backprop": [96.0, 95.0], "frozen": [70.0, 72.0]}
    rows = [summary(rule, seed, test) for rule, tests in scores.items() for seed, test in enumerate(tests)]
    for row in rows:
        write_run(folder / f"{row['rule']}-seed{row['seed']}", row=row, epochs=[epoch(1), epoch(2)], examples=True)
    (folder / "compare.json").write_text(json.dumps(rows))
    begun = write_run(folder / "begun", row=None, epochs=[])
    runs = {"crowded": crowded_run(folder / "crowded"), "begun": begun}
    return {"comparison": write_comparison(folder)} | {name: write_report(run) for name, run in runs.items()}


PAGES = pytest.mark.parametrize("name", ["comparison", "crowded", "begun"])


@PAGES
@pytest.mark.parametrize("width", [320, PHONE, 768, DESK])
def test_a_page_never_scrolls_sideways(browser, pages, name, width):
    browser.open(pages[name], width=width)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_the_check_of_the_width_finds_a_page_that_is_too_wide(browser, tmp_path):
    wide = tmp_path / "wide.html"
    viewport = '<meta name="viewport" content="width=device-width">'
    wide.write_text(f'<!DOCTYPE html>{viewport}<div style="width: 50rem">wide</div>')
    browser.open(wide, width=PHONE)
    assert browser.value("document.documentElement.scrollWidth") > PHONE


@PAGES
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_asks_for_nothing_and_nothing_goes_wrong(browser, pages, name, dark):
    browser.open(pages[name], width=DESK, dark=dark)
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.complaints() == []


def test_what_a_page_would_ask_for_is_seen(browser, tmp_path):
    asking = tmp_path / "asking.html"
    (tmp_path / "style.css").write_text("")
    asking.write_text('<!DOCTYPE html><link rel="stylesheet" href="style.css"><script>console.error("no")</script>')
    browser.open(asking, width=DESK)
    assert len(browser.requests()) == 2
    assert len(browser.complaints()) == 1


def lightness(browser: Browser, path: Path, script: str = "document.body") -> float:
    """Mean lightness (0 to 255) of an element as it is painted."""
    from PIL import Image, ImageStat

    box = browser.value(
        f"(({script}).scrollIntoView({{behavior: 'instant'}}), ({script}).getBoundingClientRect().toJSON())"
    )
    left, top = max(box["x"], 0), max(box["y"], 0)
    with Image.open(browser.picture(path, whole=False)) as picture:
        right, bottom = min(box["right"], picture.width), min(box["bottom"], picture.height)
        return ImageStat.Stat(picture.convert("L").crop((int(left), int(top), int(right), int(bottom)))).mean[0]


@PAGES
def test_a_page_is_light_by_day_and_dark_at_night(browser, pages, name, tmp_path):
    browser.open(pages[name], width=DESK)
    assert lightness(browser, tmp_path / "day.png") > 200
    browser.open(pages[name], width=DESK, dark=True)
    assert lightness(browser, tmp_path / "night.png") < 70


@pytest.mark.parametrize("place", ["learning", "depth", "messages", "timeline"])
def test_figures_are_dark_at_night_and_can_be_seen(browser, pages, place, tmp_path):
    from PIL import Image

    figure = f"document.querySelector('#{place} svg')"
    browser.open(pages["crowded"], width=DESK)
    assert lightness(browser, tmp_path / "day.png", figure) > 150
    browser.open(pages["crowded"], width=DESK, dark=True)
    assert lightness(browser, tmp_path / "night.png", figure) < 110
    with Image.open(tmp_path / "night.png") as picture:
        assert picture.convert("L").getextrema()[1] > 180  # axes and letters


@PAGES
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser, pages, name, dark):
    """The contrast that WCAG asks of text (AA: 4.5 to 1), for what is read on a page."""
    browser.open(pages[name], width=DESK, dark=dark)
    worst = browser.value(CONTRAST)
    assert worst["ratio"] >= 4.5, worst


@PAGES
def test_every_entry_of_the_contents_leads_to_a_section(browser, pages, name):
    browser.open(pages[name], width=PHONE)
    links = browser.value("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href').slice(1))")
    sections = browser.value("[...document.querySelectorAll('section')].map(section => section.id)")
    assert links == sections
    assert browser.value("document.querySelectorAll('section h1, section h2').length") == len(sections)


def test_bars_are_as_long_as_the_accuracy_they_show(browser, pages):
    browser.open(pages["comparison"], width=DESK)
    lengths = browser.value("""
        [...document.querySelectorAll('#comparison .track')].map(track =>
            100 * track.firstElementChild.getBoundingClientRect().width / track.getBoundingClientRect().width)
    """)
    assert lengths == pytest.approx([95.5, 93.5, 71.0], abs=0.2)
    assert "<svg" not in section(page(pages["comparison"]), "comparison")


CONTRAST = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const behind = element => {
    const layers = [];
    for (let each = element; each; each = each.parentElement)
      layers.push(parts(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce(
      (under, [r, g, b, a = 1]) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]), [255, 255, 255]);
  };
  let worst = {ratio: 99};
  for (const element of document.querySelectorAll('body *:not(svg *)')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst.ratio) worst = {ratio, tag: element.outerHTML.slice(0, 120)};
  }
  return worst;
})()
"""
