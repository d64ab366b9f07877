"""The playground in a real browser: Debian's Chromium, headless, driven by Playwright.

With PLAYGROUND_SCREENSHOTS=FOLDER the pictures are kept.
"""

import os
import pathlib
import shutil
import urllib.parse

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the colours of the methods need matplotlib")
pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install '.[browser]'"
)

from playwright.sync_api import sync_playwright

import cs231n_optax
from cs231n_optax.cli import main
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.playground.lessons import LESSONS
from cs231n_optax.lecture.playground.programs import LANDSCAPES, PROGRAMS

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.usefixtures("x64"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page, as the command writes it."""
    file = tmp_path_factory.mktemp("page") / "playground.html"
    assert main(["playground", "--quiet", "--out", str(file)]) == 0
    assert file.stat().st_size < 1e6
    return file.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """A function that opens the page from disk; at the end nothing may have gone wrong."""
    contexts, problems = [], []

    def opened(state="", width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.split("#")[0] in (address, "data:,")
                or problems.append(f"a request: {request.url}")
            ),
        )
        page.goto(address + state)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def score(page):
    """The scoreboard: for each method what its row says, in full precision."""
    rows = page.eval_on_selector_all("#score tbody tr", "rows => rows.map(r => ({...r.dataset}))")
    return {row["method"]: row for row in rows}


def state_of(page):
    fragment = page.evaluate("toHash()")[1:]
    return {key: values[0] for key, values in urllib.parse.parse_qs(fragment).items()}


def start_of(page):
    return np.array([float(x) for x in state_of(page)["x"].split(",")])


def click_map(page, right, down):
    box = page.locator("#map").bounding_box()
    page.mouse.click(box["x"] + right * box["width"], box["y"] + down * box["height"])


def check_against_library(page):
    """The scoreboard says what the library's own loop finds from the same start."""
    name = state_of(page)["l"]
    landscape = LANDSCAPES[name]
    parameters = [slider.default for slider in landscape.sliders]
    for method, row in score(page).items():
        program, n = PROGRAMS[method], int(row["evaluations"])
        numbers = {slider.name: slider.default for slider in program.sliders}
        if "learning_rate" in numbers:
            numbers["learning_rate"] = landscape.rates[method]
        path = descend(
            lambda x: landscape.fun(x, *parameters), start_of(page), program.make(numbers), n - 1
        )
        last = np.flatnonzero(path.accepted)[-1]
        far = np.linalg.norm(landscape.minimizers - np.asarray(path.points[last]), axis=1).min()
        np.testing.assert_allclose(float(row["value"]), path.values[last], rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(float(row["distance"]), far, rtol=1e-5, atol=1e-6)
        assert int(row["rejected"]) == np.sum(~np.asarray(path.accepted))


def check_layout(page):
    """Nothing sticks out of the page, and its canvases are drawn."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for canvas in ("map", "loss"):
        colours = page.evaluate(
            """(id) => {
              const drawn = document.getElementById(id), copy = document.createElement("canvas");
              [copy.width, copy.height] = [drawn.width, drawn.height];
              const context = copy.getContext("2d", { willReadFrequently: true });
              context.drawImage(drawn, 0, 0);
              const { data } = context.getImageData(0, 0, copy.width, copy.height);
              return new Set(new Uint32Array(data.buffer)).size;
            }""",
            canvas,
        )
        assert colours > 20, canvas


def picture(page, name, tmp_path):
    """A screenshot of the whole page, to look at."""
    check_layout(page)
    folder = pathlib.Path(os.environ.get("PLAYGROUND_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


@pytest.mark.parametrize("landscape", ["taco-shell", "himmelblau"])
def test_a_run_from_a_click(opened, landscape, tmp_path):
    """Click a start, play 100 steps, and compare the scoreboard with the library."""
    page = opened(f"#l={landscape}&m=momentum,adam,lbfgs&f=lbfgs&t=0")
    click_map(page, 0.3, 0.3)
    assert not np.allclose(start_of(page), LANDSCAPES[landscape].start)
    page.fill("#speed", "100")
    page.click("#play")
    page.wait_for_function("+document.getElementById('count').textContent >= 100")
    page.click("#play")
    rows = score(page)
    assert int(rows["adam"]["evaluations"]) >= 101
    assert int(rows["lbfgs"]["evaluations"]) < 60  # it has converged
    check_against_library(page)
    picture(page, f"{landscape}-1280", tmp_path)
    page.set_viewport_size({"width": 400, "height": 800})
    picture(page, f"{landscape}-400", tmp_path)


@pytest.mark.parametrize("method", PROGRAMS)
def test_every_method_is_drawn(opened, method, tmp_path):
    """Its vectors, scale or trust region, on a dark page; and it takes the library's steps."""
    page = opened(f"#l=beale&x=0.5,0.5&m={method}&f={method}&t=7", color_scheme="dark")
    check_against_library(page)
    picture(page, f"{method}-dark", tmp_path)
    assert page.locator("#legend span").count() >= 1


def test_state_is_in_the_address(opened):
    """A link opens the state that it was copied from, and a broken one the defaults."""
    page = opened("#l=rosenbrock&m=nesterov&f=nesterov&t=12")
    page.locator("#numbers input[data-name=rho]").fill("100")
    assert "nesterov.rho" in state_of(page)
    page.select_option("#decay", "exponential")
    page.locator("#noise input").fill("120")
    page.click("#seed")
    page.wait_for_function("location.hash === toHash()")
    copy = opened(page.evaluate("location.hash"))
    assert score(copy) == score(page)
    assert state_of(copy) == state_of(page)
    broken = opened("#l=nowhere&x=1,nonsense&m=magic&t=-5&decay=never&adam.b1=x")
    assert state_of(broken)["l"] == "taco-shell"
    assert broken.inner_text("#count") == "0"


@pytest.mark.parametrize("kappa", [1, 5, 60, 200])
def test_tuned_rates_follow_kappa(opened, kappa):
    """At no κ does a method at its tuned rate leave the valley."""
    page = opened(f"#l=taco-shell&kappa={kappa}&m=sgd,momentum,nesterov&f=sgd&t=200")
    for row in score(page).values():
        assert float(row["distance"]) < 9


def test_keyboard(opened):
    """All of it without a mouse: move the start, step, go back, play, choose a method."""
    page = opened("#l=saddle&m=sgd&f=sgd&t=0")
    page.focus("#map")
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight"):
        page.keyboard.press(key)
    start = start_of(page)
    assert start[0] > LANDSCAPES["saddle"].start[0]
    assert start[1] > LANDSCAPES["saddle"].start[1]
    for key in (".", ".", ".", ","):
        page.keyboard.press(key)
    assert page.inner_text("#count") == "2"
    page.keyboard.press("Home")
    assert page.inner_text("#count") == "0"
    page.keyboard.press(" ")
    page.wait_for_function("+document.getElementById('count').textContent > 3")
    page.keyboard.press(" ")
    page.get_by_role("button", name="RMSProp").focus()
    page.keyboard.press("Enter")
    assert set(score(page)) == {"sgd", "rmsprop"}
    assert state_of(page)["f"] == "rmsprop"


def test_drag_and_touch(opened):
    """The mouse drags the start; a tap sets it, and a finger drags it."""
    page = opened("#l=himmelblau&m=sgd&f=sgd&x=0,0&t=20")
    box = page.locator("#map").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] - 40, steps=4)
    page.mouse.up()
    start = start_of(page)
    assert np.all(start > 0.5)
    np.testing.assert_allclose(start[0] / start[1], 1.5, rtol=0.02)  # within a pixel
    phone = opened("#l=himmelblau&m=sgd&f=sgd&t=20", width=400, height=800, has_touch=True)
    box = phone.locator("#map").bounding_box()
    phone.touchscreen.tap(box["x"] + 40, box["y"] + 60)
    phone.wait_for_function("toHash().includes('x=')")
    assert start_of(phone)[0] < -2
    assert start_of(phone)[1] > 2
    before, scrolled = start_of(phone), phone.evaluate("scrollY")
    finger = phone.context.new_cdp_session(phone)
    for type_, shift in (
        ("touchStart", 0),
        ("touchMove", 30),
        ("touchMove", 60),
        ("touchEnd", None),
    ):
        at = [] if shift is None else [{"x": box["x"] + 40, "y": box["y"] + 60 + shift}]
        finger.send("Input.dispatchTouchEvent", {"type": type_, "touchPoints": at})
    assert start_of(phone)[1] < before[1] - 0.5
    assert phone.evaluate("scrollY") == scrolled


# What each lesson says, as its scoreboard shows it: value v and distance d, by method.
FACTS = {
    "SGD zigzags in a narrow valley": lambda v, d: d["sgd"] > 3,
    "SGD stays in a local minimum; momentum rolls on": lambda v, d: (
        d["sgd"] > 2.9 > 1 > d["momentum"]
    ),
    "SGD waits at a saddle": lambda v, d: abs(v["sgd"]) < 1e-3,
    "A noisy gradient meanders": lambda v, d: v["sgd"] > 0.1,
    "Momentum: velocity and gradient add up to the step": lambda v, d: d["momentum"] < d["sgd"],
    "Nesterov overshoots less than momentum": lambda v, d: v["nesterov"] < v["momentum"] / 5,
    "AdaGrad's steps shrink, RMSProp's do not": lambda v, d: d["rmsprop"] < d["adagrad"] / 10,
    "Adam's first step is too long without the correction": lambda v, d: (
        v["adam-uncorrected"] > 100 * v["adam"]
    ),
    "A decay of the rate calms the noise": lambda v, d: v["sgd"] < 1,
    "Newton's model and its trust region": lambda v, d: v["newton"] < 5,
    "On a quadratic, Newton needs one step": lambda v, d: d["newton"] < 1e-9 < 5 < d["sgd"],
    "L-BFGS works very well in full batch, …": lambda v, d: (
        d["lbfgs"] < 0.01 < min(d["sgd"], d["momentum"])
    ),
    "… and badly with noise": lambda v, d: v["lbfgs"] > 10 * v["adam"],
}


def test_lessons(opened):
    """Each link opens as it stands, and shows what it says."""
    page = opened()
    assert [lesson.title for lesson in LESSONS] == list(FACTS)
    for lesson in LESSONS:
        page.get_by_role("link", name=lesson.title).click()
        page.wait_for_function("(state) => toHash() === state", arg=lesson.state)
        assert page.inner_text("#count") == state_of(page)["t"]
        rows = score(page)
        values = {name: float(row["value"]) for name, row in rows.items()}
        distances = {name: float(row["distance"]) for name, row in rows.items()}
        assert FACTS[lesson.title](values, distances), (lesson.title, values, distances)
        check_layout(page)


def test_status_of_the_page_is_the_librarys():
    """The words for the statuses stand in the order of the enumeration."""
    source = pathlib.Path(cs231n_optax.__file__).parent / "lecture" / "playground" / "engine.js"
    words = source.read_text().split("const STATUS = [")[1].split("]")[0]
    names = [word.strip(' "') for word in words.split(",")]
    for status in cs231n_optax.Status:
        assert names[status] in ("", status.name.lower())
