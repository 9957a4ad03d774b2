"""The pages in a real browser: what is seen, and what keys and clicks do."""

import csv
import json

import numpy as np
import pytest
from test_report import HOSTILE, contexts_of

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import blinded_report, report

N_ATOMS = 120
N_ROWS = 50


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).random((400, 12))


@pytest.fixture(scope="module")
def sae(X):
    sae = MFRSparseAutoencoder(N_ATOMS, k=3, max_steps=60, n_witnesses=2)
    sae.set_params(random_state=0).fit(X)
    # So short a fit gives no atom that is.
    sae.trusted_ = sae.feature_agreement_ > 0.75
    return sae


@pytest.fixture(scope="module")
def hostile_words():
    """What would run if a text were taken for HTML or JavaScript."""
    image = "<img src=x onerror=\"document.title='run'\">"
    return {"feature_names": {3: HOSTILE, 4: image}, "notes": {3: image, 5: HOSTILE}}


class Hostile:
    """A tokenizer whose every token is a script."""

    def decode(self, ids):
        return "".join(f"{HOSTILE}{i}" for i in ids)


WAYS = {
    "image": {"image_shape": (3, 4)},
    "colours": {"image_shape": (2, 2, 3)},
    "channels": {"ch_names": ["Fz", "Cz", HOSTILE], "sfreq": 100},
    "curve": {},
    "text": {"contexts": contexts_of(N_ATOMS), "tokenizer": Hostile()},
}


@pytest.fixture(scope="module")
def pages(X, sae, hostile_words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    paths = {}
    for way, parameters in WAYS.items():
        page = report(
            sae,
            X,
            title=HOSTILE,
            max_atoms=90,
            n_examples=3,
            **hostile_words,
            **parameters,
        )
        paths[way] = page.write_html(folder / f"{way}.html")
        if way == "text":
            parameters = parameters | {"contexts": {"a": parameters["contexts"]}}
        study = blinded_report(
            {"a": sae}, X, title=HOSTILE, n_atoms=4, random_state=0, **parameters
        )
        paths[f"rating {way}"], _ = study.write(folder / way)
    return paths


PAGES = [*WAYS, *(f"rating {way}" for way in WAYS)]


@pytest.fixture
def show(chromium, pages):
    """Open a page, in a window and colours of one's choice."""

    def open_page(page, width=1200, scheme="light"):
        shown = Page(chromium)
        shown.set_width(width)
        shown.set_scheme(scheme)
        for log in ("browser", "performance"):
            chromium.get_log(log)
        # Answers that are not saved would keep the page open.
        chromium.execute_script("if (window.rating) saved = true")
        chromium.get(pages[page].as_uri())
        return shown

    return open_page


class Page:
    """What tests look at and do."""

    def __init__(self, driver):
        self.driver = driver

    def open_detailed(self):
        """Open an atom with examples and, as even ones have them, contexts."""
        self.run("openAtom(order.find((i) => i % 2 === 0 && i in data.details))")

    def set_width(self, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def set_scheme(self, scheme):
        colours = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [colours]}
        )

    @property
    def is_report(self):
        return bool(self.driver.find_elements("css selector", "dialog"))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        # All at once: each request takes its time.
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((element) => element.innerText.trim())",
            selector,
        )

    def type(self, *keys):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        names = [getattr(Keys, key.upper(), key) for key in keys]
        ActionChains(self.driver).send_keys(*names).perform()

    def atoms(self):
        return [int(text) for text in self.texts("tbody th button")]

    def sort(self, column):
        self.find(f"th[data-column={column}] button").click()

    def choose(self, value):
        # From the keyboard: a click of the driver's is no input event, as users' are.
        index = self.run(
            "const { show } = document.forms.filters.elements; show.focus();"
            "return [...show.options].findIndex(({ value }) => value === arguments[0])",
            value,
        )
        self.type("home", *["arrow_down"] * index)

    def enter(self, name, text):
        self.find(f"input[name={name}]").send_keys(text)

    def count(self):
        return int(self.find("#count").text.split()[0])

    @property
    def open_atom(self):
        """Number of the atom in the dialog, None if it is closed."""
        if not self.run("return document.getElementById('atom').open"):
            return None
        return int(self.find("#atom-title").text.split()[1].rstrip(":"))

    def wait_for(self, selector, text):
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.driver, 10)
        wait.until(lambda _: self.find(selector).text == text)

    def wait_for_focus(self, atom):
        """Until the keyboard is at an atom's row of the table."""
        self.wait_for("tbody tr:focus-within button", str(atom))


@pytest.fixture(scope="module")
def numbers(X, sae):
    """What each column is sorted by."""
    codes = sae.transform(X)
    active = codes > 0
    others = [*np.delete(sae.dictionaries_, sae.reference_sae_, axis=0)]
    others += [*sae.witness_dictionaries_]
    cosines = [(sae.components_ @ atoms.T).max(1) for atoms in others]
    energy = np.square(codes).sum(0)
    return {
        "atom": np.arange(N_ATOMS),
        "agreement": sae.feature_agreement_,
        "returns": sae.reappearance_,
        "usage": energy / energy.sum(),
        "density": active.mean(0),
        "mean": codes.sum(0) / np.maximum(active.sum(0), 1),
        "largest": codes.max(0),
        "match": np.max(cosines, axis=0),
    }


@pytest.mark.parametrize("page", PAGES)
def test_pages_need_nothing_and_run_no_text(show, chromium, page):
    page = show(page)
    if page.is_report:
        for atom in (3, 5, 4):
            page.run("openAtom(arguments[0])", atom)
            assert page.open_atom == atom
    page.set_scheme("dark")
    assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert chromium.title == HOSTILE
    assert chromium.get_log("browser") == []
    events = [
        json.loads(entry["message"])["message"]
        for entry in chromium.get_log("performance")
    ]
    fetched = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert fetched <= {"file", "data"}
    assert page.run("return performance.getEntriesByType('resource').length") == 0


def test_columns_sort(show, numbers):
    page = show("image")
    # So that another column is sorted before each.
    page.sort("usage")
    for column, of_atoms in numbers.items():
        # The first click puts the largest first, but for numbers of atoms.
        directions = ["descending", "ascending"]
        for direction in reversed(directions) if column == "atom" else directions:
            page.sort(column)
            (header,) = page.driver.find_elements("css selector", "th[aria-sort]")
            assert header.get_attribute("data-column") == column
            assert header.get_attribute("aria-sort") == direction
            shown = of_atoms[page.atoms()]
            assert len(shown) == N_ROWS
            expected = np.sort(of_atoms)
            if direction == "descending":
                expected = expected[::-1]
            # The page has 4 digits.
            np.testing.assert_allclose(
                shown, expected[:N_ROWS], rtol=1e-3, err_msg=column
            )


def test_pages_of_the_table_have_every_atom_once(show):
    page = show("image")
    page.sort("atom")
    assert not page.find("#previous-page").is_enabled()
    seen = page.atoms()
    for _ in range(2):
        page.find("#next-page").click()
        seen += page.atoms()
    assert seen == list(range(N_ATOMS))
    assert not page.find("#next-page").is_enabled()
    page.run("document.getElementById('page').select()")
    page.type("2")
    page.type("tab")
    assert page.atoms() == list(range(50, 100))


def test_filters_leave_what_is_wanted(show, numbers, sae):
    page = show("image")
    density, agreement = numbers["density"], numbers["agreement"]
    for choice, wanted in {
        "trusted": sae.trusted_,
        "untrusted": ~sae.trusted_,
        "active": density > 0,
        "dead": density == 0,
        "named": np.isin(np.arange(N_ATOMS), [3, 4, 5]),
        "all": density >= 0,
    }.items():
        page.choose(choice)
        assert page.count() == wanted.sum() > 0
        assert set(page.atoms()) <= set(np.flatnonzero(wanted))
    page.choose("detailed")
    assert page.count() == 90
    page.choose("all")

    page.enter("agreement-from", "0.7")
    page.enter("agreement-to", "0.8")
    page.enter("density-to", "3")
    wanted = (agreement >= 0.7) & (agreement <= 0.8) & (density <= 0.03)
    assert 0 < wanted.sum() < N_ROWS
    assert set(page.atoms()) == set(np.flatnonzero(wanted))

    page.find("#filters button[type=reset]").click()
    assert page.count() == N_ATOMS


def test_search_finds_numbers_names_notes_and_texts(show):
    page = show("text")
    page.enter("search", "12")
    # As a whole: neither 112 nor 120, but texts may contain it.
    assert page.atoms() == [12]
    page.find("input[name=search]").clear()
    page.enter("search", "ONERROR")
    assert sorted(page.atoms()) == [3, 4]
    page.find("input[name=search]").clear()
    page.enter("search", "&amp;1")
    # In the contexts of even atoms that are shown in full.
    assert page.count() > 10
    assert {atom % 2 for atom in page.atoms()} == {0}
    page.enter("search", " nowhere")
    assert page.count() == 0
    assert page.texts("tbody td") == ["No atom is like that."]


def test_a_click_opens_an_atom_and_escape_closes_it(show, X, sae):
    page = show("image")
    page.sort("agreement")
    page.choose("detailed")
    atom = page.atoms()[2]
    page.find("tbody tr:nth-child(3) td:last-child").click()
    assert page.open_atom == atom
    codes = sae.transform(X)[:, atom]
    best = np.argsort(-codes, kind="stable")[:3]
    captions = [text.split(":")[0] for text in page.texts(".samples figcaption")]
    assert captions == [f"Sample {sample}" for sample in best if codes[sample] > 0]
    agreement = f"{sae.feature_agreement_[atom]:.3f}"
    assert page.texts(".about dd")[0].split(",")[0] == agreement
    page.type("escape")
    assert page.open_atom is None
    page.wait_for_focus(atom)


def test_the_table_and_atoms_work_from_the_keyboard(show):
    page = show("curve")
    first, second, third = page.atoms()[:3]
    page.run("document.querySelector('th[data-column=match] button').focus()")
    # The region that scrolls comes before its table.
    page.type("tab")
    page.wait_for_focus(first)
    page.type("arrow_down")
    page.type("enter")
    assert page.open_atom == second
    page.type("arrow_right")
    assert page.open_atom == third
    page.type("arrow_left", "arrow_left", "arrow_left")
    assert page.open_atom == first
    # The first has no atom before it.
    assert not page.find("#previous-atom").is_enabled()
    page.type("tab", "tab", "enter")
    assert page.open_atom is None
    page.wait_for_focus(first)


def test_the_table_follows_to_another_page(show):
    page = show("curve")
    last = page.atoms()[-1]
    page.run("openAtom(arguments[0])", last)
    page.type("arrow_right")
    following = page.open_atom
    page.find("#close").click()
    assert page.atoms()[0] == following != last
    page.wait_for_focus(following)


def test_atoms_with_numbers_only_say_so(show):
    page = show("image")
    atom = page.run("return order.find((atom) => !(atom in data.details))")
    page.run("openAtom(arguments[0])", atom)
    assert "for the atoms with the largest usage only" in page.find("dialog").text
    assert page.texts("dialog .samples") == []
    assert len(page.texts("dialog tbody tr")) == 4


def test_images_show_signs_by_colour(show, sae):
    page = show("image")
    atom = page.atoms()[0]
    page.run("openAtom(arguments[0])", atom)
    pixels = page.run(
        "const canvas = document.querySelector('.shape canvas');"
        "return [...canvas.getContext('2d').getImageData(0, 0, 4, 3).data]"
    )
    red, _, blue, opacity = np.reshape(pixels, (12, 4)).T
    assert (opacity == 255).all()
    values = sae.components_[atom]
    clear = np.abs(values) > 0.05
    assert np.array_equal(red[clear] > blue[clear], values[clear] > 0)
    strongest = np.abs(values).argmax()
    end = [178, 24, 43] if values[strongest] > 0 else [33, 102, 172]
    assert pixels[4 * strongest : 4 * strongest + 3] == pytest.approx(end, abs=3)


def test_texts_mark_the_active_token(show):
    page = show("text")
    page.open_detailed()
    assert page.texts(".contexts mark") == [f"{HOSTILE}2"]
    words = page.find(".contexts .words").text
    assert words == f"{HOSTILE}1{HOSTILE}2{HOSTILE}3"


CONTRASTS = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
function luminance([red, green, blue]) {
  const linear = [red, green, blue].map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
function ground(node) {
  for (; node; node = node.parentElement) {
    const colour = channels(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
}
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
  const hint = node.placeholder;
  if (!(own || hint) || !node.getClientRects().length || node.disabled) continue;
  const style = getComputedStyle(node, hint ? "::placeholder" : null);
  const colour = node instanceof SVGElement ? style.fill : style.color;
  const [first, second] = [luminance(channels(colour)), luminance(ground(node))];
  const ratio = (Math.max(first, second) + 0.05) / (Math.min(first, second) + 0.05);
  found.push([node.tagName, (hint || node.textContent).slice(0, 40), ratio]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["channels", "text", "rating image"])
def test_texts_have_the_contrast_of_wcag_aa(show, page, scheme):
    page = show(page, scheme=scheme)
    measured = page.run(CONTRASTS)
    if page.is_report:
        page.open_detailed()
        measured += page.run(CONTRASTS)
    assert len(measured) > 15
    assert [entry for entry in measured if entry[2] < 4.5] == []
    dark = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark[4:-1].split(","))) < 200) == (scheme == "dark")


@pytest.mark.parametrize("page", PAGES)
def test_pages_do_not_scroll_sideways(show, page):
    page = show(page, width=320)
    if page.is_report:
        page.open_detailed()
    for width in (320, 400):
        page.set_width(width)
        if page.is_report:
            scroll, client = page.run(
                "const { scrollWidth, clientWidth } = document.querySelector('dialog');"
                "return [scrollWidth, clientWidth]"
            )
            assert scroll <= client
        assert page.run("return document.documentElement.scrollWidth") <= width


def downloaded(page, extension):
    from selenium.webdriver.support.wait import WebDriverWait

    page.find(f"#save-{extension}").click()

    def finished(_):
        return list(page.driver.downloads.glob(f"answers-*.{extension}"))

    (path,) = WebDriverWait(page.driver, 10).until(finished)
    text = path.read_bytes().decode()
    path.unlink()
    return text


def test_answers_are_saved_and_loaded(show, tmp_path):
    page = show("rating image")
    said = 'a "stroke", and\u2026 <b>more</b>'
    page.find("input[value='4']").click()
    page.find("input[name=description]").send_keys(said)
    page.type("enter")
    assert page.find("#item-title").text == "Atom 2 of 4"
    # Keys rate, but for those that are typed into a field.
    page.type("2")
    page.find("input[name=description]").send_keys("5 strokes")
    page.find("#rater").send_keys("=AB")
    assert page.find("#progress").text == "2 of 4 rated"

    answers = json.loads(downloaded(page, "json"))
    study = answers[0]["study"]
    assert [tuple(answer.values()) for answer in answers] == [
        (study, "=AB", 1, 4, said),
        (study, "=AB", 2, 2, "5 strokes"),
        (study, "=AB", 3, None, ""),
        (study, "=AB", 4, None, ""),
    ]
    rows = list(csv.DictReader(downloaded(page, "csv").splitlines()))
    assert rows == [
        {name: "" if value is None else str(value) for name, value in answer.items()}
        for answer in answers
    ]

    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers))
    page = show("rating image")
    page.find("#load").send_keys(str(path))
    # The first that is open.
    page.wait_for("#item-title", "Atom 3 of 4")
    assert page.find("#progress").text == "2 of 4 rated"
    page.find("#previous").click()
    assert page.run("return document.forms.rating.elements.rating.value") == "2"
    assert page.run("return document.forms.rating.elements.description.value") == (
        "5 strokes"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "answers.json is not JSON."),
        ('[{"study": "another"}]', "answers.json has no answers to this page."),
        ("{}", "answers.json has no answers to this page."),
    ],
)
def test_other_files_are_refused(show, tmp_path, content, said):
    page = show("rating curve")
    path = tmp_path / "answers.json"
    path.write_text(content)
    page.find("#load").send_keys(str(path))
    page.wait_for("#message", said)
    assert page.find("#progress").text == "0 of 4 rated"
