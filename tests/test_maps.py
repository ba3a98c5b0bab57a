"""The map of the exponents: where structures are, the figure, and the page as a user
has it, in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import einc
from einc import UsageError, compiler, library, plots, taxonomy
from einc.analysis.profile import Profile
from einc.maps.figure import figure as figure_of
from einc.maps.figure import picture
from einc.maps.file import FORMATS, drawn
from einc.maps.page import page as page_of
from einc.maps.places import Place, places

FEATURES = (64, 64)


@cache
def profiles() -> tuple[Profile, ...]:
    structures = map(library.structure, library.NAMES)
    return tuple(compiler.analyze(structure, *FEATURES) for structure in structures)


@cache
def placed() -> tuple[Place, ...]:
    found, left_out = places(profiles())
    assert not left_out
    return tuple(found)


def own(name: str, omega: str, psi: str, nu: str, **changes: Any) -> Place:
    exponents = {"omega": Fraction(omega), "psi": Fraction(psi), "nu": Fraction(nu)}
    return replace(placed()[0], name=name, own=True, **exponents, **changes)


# Places


def test_the_library_has_its_places() -> None:
    assert [place.name for place in placed()] == list(library.NAMES)
    for place, profile in zip(placed(), profiles(), strict=True):
        cells = dict(zip(taxonomy.COLUMNS, taxonomy.row(profile), strict=True))
        assert "; ".join(place.equations) == cells["equation"]
        assert (str(place.omega), str(place.psi)) == (cells["omega"], cells["psi"])
        assert (str(place.nu), place.class_) == (cells["nu"], cells["class"])
        assert (place.family or "novel") == cells["family"]
        counts = place.parameters, place.flops, place.rank
        assert counts == (cells["parameters"], cells["FLOPs"], cells["rank"])
        assert not place.own and place.features == "64 x 64"
    tucker = placed()[library.NAMES.index("tucker")]
    assert (tucker.omega, tucker.psi, tucker.nu) == (
        Fraction(1, 4),
        Fraction(1, 2),
        Fraction(1, 4),
    )


def test_a_spec_gives_the_same_figures_again() -> None:
    structure = library.structure("btt", {"rank": Fraction(3)})
    (first,), _ = places([compiler.analyze(structure, *FEATURES)])
    assert not first.own and "btt(rank = 3)" in first.spec
    (again,), _ = places([einc.parse(first.spec).analyze(*FEATURES)])
    assert again.own and replace(again, own=False) == first


def test_what_has_no_exponents_has_no_place() -> None:
    fixed = "structure fixed { y[o] = x[i] * W[i, o]  i, o = 8 }"
    same = "structure same { y[i] = x[i] }"
    tied = "structure tied { y[o] = x[i] * U[i, r] * U[o, r]  r ~ d^(1/2) }"
    reports = [einc.parse(text).analyze() for text in (fixed, same, tied)]
    (place,), left_out = places(reports)
    assert left_out == ["fixed", "same"]
    assert place.name == "tied" and not place.psi_is_exact
    assert (place.features, place.parameters, place.flops, place.rank) == ("",) * 4


# The figure

CROWDS = {
    "library": [],
    "few": [own("mine", "0", "1/2", "1/2"), own("wide", "0", "1", "3/2")],
    "below zero": [own("routed", "-1/2", "1", "1"), own("odd", "-1/3", "1/3", "7/9")],
    "one place": [own(f"number_{i}", "0", "1", "1/2") for i in range(40)],
    "long": [own("a" * 200, "1/3", "1", "2/3"), own("b_" * 99 + "c", "0", "0", "0")],
    "near": [own(f"n{i}", f"{i}/100", "1", f"{60 + i % 3}/100") for i in range(30)],
    "below full rank": [
        own(f"s{i}", f"{i % 4 - 1}/4", f"{i % 3 + 1}/4", f"{i % 5}/8", psi_is_exact=i)
        for i in range(25)
    ],
}
CROWDS["all"] = [place for crowd in CROWDS.values() for place in crowd]


@pytest.mark.parametrize("crowd", CROWDS)
def test_labels_name_all_and_leave_each_other_room(crowd: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    shown = [*placed(), *CROWDS[crowd]]
    figure = figure_of(shown)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = list(figure.texts) + list(figure.legends[0].get_texts())
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        labels = axes.get_xticklabels() + axes.get_yticklabels()
        texts += [text for text in labels if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent(renderer).padded(-0.5) for text in texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height
    named = [text.get_window_extent(renderer).padded(-0.5) for text in figure.texts]
    for axes in figure.axes:
        for marker in axes.lines:
            center = marker.get_transform().transform(marker.get_xydata())[0]
            middle = Bbox.from_bounds(*center, 0, 0).padded(3)
            assert not any(middle.overlaps(box) for box in named)
    written = "".join(text.get_text() for text in figure.texts)
    assert [place.name for place in shown if place.name not in written] == []


def test_the_user_s_own_and_dense_are_marked() -> None:
    figure = figure_of([own("mine", "1/4", "1/2", "1/2", psi_is_exact=False)])
    written = {text.get_text(): text.get_fontweight() for text in figure.texts}
    assert written == {"dense": "normal", "ω = 1/4: mine (ψ ≤ 1/2)": "bold"}
    assert [[line.get_marker() for line in a.lines] for a in figure.axes] == [
        ["*"],
        ["s"],
    ]


@pytest.mark.parametrize("format", plots.FORMATS)
def test_a_figure_is_the_same_each_time(format: str) -> None:
    shown = [*placed(), *CROWDS["few"]]
    data = drawn(shown, "title", format)
    assert data == picture(shown, format)
    assert data != picture(placed(), format)
    start = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}[format]
    assert data.startswith(start)


def test_an_svg_has_no_colour() -> None:
    text = picture([*placed(), *CROWDS["all"]], "svg").decode()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    colours = re.findall(
        r"(?:fill|stroke|stop-color|color)\s*[:=]\s*\"?([^;\"]+)", text
    )
    assert {"#000000", "#ffffff"} < set(colours)
    for colour in set(colours) - {"none"}:
        red, green, blue = re.fullmatch(r"#(..)(..)(..)", colour).groups()
        assert red == green == blue


def test_a_picture_has_room_for_so_many_and_a_page_for_all() -> None:
    (one, *_) = placed()
    many = [replace(one, name=f"s{i}", omega=Fraction(i, 200)) for i in range(151)]
    with pytest.raises(UsageError, match="room for 150 structures, and there are 151"):
        picture(many, "svg")
    assert "s150" in drawn(many, "title", "html").decode()


def test_a_picture_does_not_grow_with_names_without_limit() -> None:
    shown = [*placed(), own("a" * 100_000, "0", "1", "1")]
    with pytest.raises(UsageError, match="no room for the names"):
        picture(shown, "svg")


def test_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, format in {"a.svg": "svg", "b.HTML": "html"}.items():
        assert plots.file_format(Path(name), FORMATS) == format
    for name, formats in {"a.html": plots.FORMATS, "a.gif": FORMATS}.items():
        with pytest.raises(UsageError, match="pictures end in one of"):
            plots.file_format(Path(name), formats)
    for module in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots.file_format(Path("a.html"), FORMATS) == "html"
    assert drawn(placed(), "no matplotlib", "html")
    with pytest.raises(UsageError, match="plots need matplotlib"):
        plots.file_format(Path("a.png"), FORMATS)


# The page

HOSTILE = "</pre></script><script>alert(1)</script><!-- &lt; {{data}} ' <img src=x>"


def hostile() -> Place:
    text = f'structure s {{ "{HOSTILE}" y[o] = x[i] * W[i, o] # {HOSTILE}\n }}'
    (place,), _ = places([einc.parse(text).analyze(*FEATURES)])
    assert HOSTILE in place.spec
    return place


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1][0] if self.tags else ""
        self.texts[tag] = self.texts.get(tag, "") + data

    @property
    def kinds(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def data_of(text: str) -> Any:
    (data,) = re.findall(
        r'<script type="application/json".*?>(.*?)</script>', text, re.S
    )
    return json.loads(data)


def test_the_page_holds_the_places() -> None:
    shown = [*placed(), *CROWDS["few"]]
    text = page_of(shown, "A map")
    assert drawn(shown, "A map", "html") == text.encode()
    found = {}
    for point in data_of(text)["points"]:
        assert point["at"] == [float(Fraction(e)) for e in point["exponents"]]
        for entry in point["structures"]:
            found[entry["row"]] = entry, tuple(map(Fraction, point["exponents"]))
    assert sorted(found) == list(range(len(shown)))
    for row, place in enumerate(shown):
        entry, exponents = found[row]
        assert exponents == (place.omega, place.psi, place.nu)
        assert entry["name"] == place.name and entry["spec"] == place.spec
        assert entry["equations"] == list(place.equations)
        assert entry["parameters"].replace(",", "") == place.parameters
        assert entry["flops"].replace(",", "") == place.flops
        assert entry["rank"].replace(",", "") == place.rank
        assert (entry["class"], entry["family"]) == (place.class_, place.family)
        assert entry["own"] is place.own
    assert Elements(text).kinds.count("tr") == 1 + len(shown)


def test_the_page_loads_nothing() -> None:
    text = page_of(placed(), "A map")
    page = Elements(text)
    assert not {"img", "iframe", "object", "embed", "base"} & set(page.kinds)
    loaded = [
        value
        for _, attributes in page.tags
        for name in ("src", "href", "srcset", "action", "data")
        if (value := attributes.get(name)) is not None
    ]
    assert loaded == ["data:,"]
    assert not re.search(r"\burl\(|@import|\bfetch\(|XMLHttpRequest|https?:", text)
    (policy,) = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_hostile_text_stays_text() -> None:
    plain = Elements(page_of([replace(hostile(), spec="")], "A map"))
    text = page_of([hostile()], HOSTILE)
    page = Elements(text)
    assert page.kinds == plain.kinds
    assert page.texts["h1"].strip() == page.texts["title"].strip() == HOSTILE
    assert HOSTILE in data_of(text)["points"][0]["structures"][0]["spec"]
    named = replace(hostile(), name=HOSTILE, equations=(HOSTILE,), class_=HOSTILE)
    assert Elements(page_of([named], "A map")).kinds == plain.kinds


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("the page is tried in Chromium, which is not installed")
    # Chromium has no sandbox for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=options)
        yield started
        started.close()


class Opened:
    """A page in a browser without a network, and all that it says and asks for."""

    def __init__(self, browser: Any, file: Path, text: str, **options: Any) -> None:
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(offline=True, **options)
        self.page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(".point[transform]")
        assert (self.said, self.asked) == ([], [file.as_uri()])

    def point(self, name: str) -> Any:
        """The point of a structure."""
        return self.page.locator(f'.point[aria-label*="{name}"]')

    def hover(self, name: str) -> None:
        box = self.point(name).locator(".shape").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)

    def places(self) -> list[str]:
        points = self.page.locator(".point").all()
        return [str(point.get_attribute("transform")) for point in points]

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    shown = [*placed(), *CROWDS["few"], hostile()]
    file = tmp_path / "map.html"
    found = Opened(browser, file, page_of(shown, HOSTILE))
    yield found
    assert (found.said, found.asked) == ([], [file.as_uri()])
    found.page.context.close()


def test_a_point_tells_what_it_is(opened: Opened) -> None:
    assert opened.page.locator("#tip").is_hidden()
    tucker = placed()[library.NAMES.index("tucker")]
    opened.hover("tucker")
    told = opened.text("#tip")
    for part in (
        "ω = 1/4, ψ = 1/2, ν = 1/4",
        tucker.equations[0],
        "class low-rank shared, family tucker",
        f"{tucker.parameters} parameters, {int(tucker.flops):,} FLOPs per token",
        f"rank {tucker.rank}, at 64 x 64",
    ):
        assert part in told
    opened.page.mouse.move(5, 5)
    assert opened.page.locator("#tip").is_hidden()
    opened.point("cp").focus()
    assert placed()[library.NAMES.index("cp")].equations[0] in opened.text("#tip")


def test_structures_at_one_point_are_all_told(opened: Opened) -> None:
    point = opened.point("low_rank_moe")
    assert point.locator(".count").text_content() == "5"
    together = ["low_rank", "blast", "multi_level_low_rank", "low_rank_moe"]
    opened.hover("low_rank_moe")
    headings = opened.page.locator("#tip h3").all_inner_texts()
    assert headings == [*together, "mine (your own)"]
    opened.page.mouse.down()
    opened.page.mouse.up()
    assert opened.page.locator("#tip").is_hidden()
    specs = opened.page.locator("#panel pre").all_inner_texts()
    found = {place.name: place.spec for place in placed()}
    assert specs[:4] == [found[name] for name in together]
    copy = opened.page.locator("#panel button").nth(1)
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    copy.click()
    opened.page.wait_for_function(
        "document.querySelectorAll('#panel button')[1].textContent === 'Copied'"
    )
    assert opened.page.evaluate("navigator.clipboard.readText()") == found["blast"]


def test_hostile_text_is_shown_as_it_is(opened: Opened) -> None:
    assert opened.text("h1") == HOSTILE
    opened.page.keyboard.press("Tab")
    opened.page.get_by_role("button", name="s", exact=True).click()
    assert hostile().spec in opened.page.locator("#panel pre").all_inner_texts()
    assert opened.page.locator("img").count() == 0


def test_dragging_turns_the_map(opened: Opened) -> None:
    before = opened.places()
    box = opened.page.locator("#map").bounding_box()
    x, y = box["x"] + 30, box["y"] + box["height"] - 30
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 80, y - 20, steps=4)
    opened.page.mouse.up()
    after = opened.places()
    assert all(a != b for a, b in zip(before, after, strict=True))
    opened.page.mouse.move(x, y)
    assert opened.places() == after
    opened.page.get_by_role("button", name="3-D").click()
    assert opened.places() == before


def test_a_drag_that_ends_on_a_point_is_no_click(opened: Opened) -> None:
    box = opened.point("cp").locator(".shape").bounding_box()
    x, y = box["x"] + 5, box["y"] + 5
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 40, y, steps=8)
    opened.page.mouse.move(x, y, steps=8)
    opened.page.mouse.up()
    assert "Click a point" in opened.text("#panel")
    opened.page.mouse.down()
    opened.page.mouse.up()
    assert "structure cp" in opened.text("#panel")


def test_keys_and_wheel(opened: Opened) -> None:
    seen = [opened.places()]
    opened.page.locator("#map").focus()
    for key in ("ArrowLeft", "ArrowUp", "+"):
        opened.page.keyboard.press(key)
        assert opened.places() not in seen
        seen.append(opened.places())
    opened.page.mouse.move(300, 400)
    opened.page.mouse.wheel(0, 240)
    opened.page.wait_for_function(
        "before => document.querySelector('.point').getAttribute('transform') != before",
        arg=seen[-1][0],
    )
    opened.page.keyboard.press("0")
    assert opened.places() == seen[0]
    opened.point("tucker").focus()
    opened.page.keyboard.press("Enter")
    assert "structure tucker" in opened.text("#panel")


def test_a_touch_turns_the_map(browser: Any, tmp_path: Path) -> None:
    text = page_of(placed(), "A map")
    phone = {"viewport": {"width": 400, "height": 800}, "has_touch": True}
    found = Opened(browser, tmp_path / "map.html", text, **phone)
    before = found.places()
    send = found.page.context.new_cdp_session(found.page).send
    x, y = 60, 300
    for kind, points in {
        "touchStart": [{"x": x, "y": y}],
        "touchMove": [{"x": x + 60, "y": y + 20}],
        "touchEnd": [],
    }.items():
        send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert all(a != b for a, b in zip(before, found.places(), strict=True))
    found.page.context.close()


def test_no_label_covers_another_in_any_view(opened: Opened) -> None:
    overlaps = """() => {
      const boxes = [...document.querySelectorAll('#map text:not(.count)')]
        .filter((text) => text.getAttribute('visibility') === 'visible')
        .map((text) => text.getBoundingClientRect());
      return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)).length;
    }"""  # fmt: skip
    opened.page.locator("#map").focus()
    for key in ["ArrowRight"] * 12 + ["ArrowDown"] * 6 + ["ArrowUp"] * 12:
        opened.page.keyboard.press(key)
        assert opened.page.evaluate(overlaps) == 0


def test_without_scripts_there_is_the_table(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    file.write_text(page_of(placed(), "A map"), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#turnable").is_hidden()
    assert page.locator("tbody th").all_inner_texts() == list(library.NAMES)
    context.close()
