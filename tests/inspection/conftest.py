"""One small fit for all displays, no windows, and a browser for pages."""

import shutil
import sys

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import TrainingHistory

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def no_window():
    plt = pytest.importorskip("matplotlib.pyplot")
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def X():
    rng = np.random.default_rng(0)
    codes = rng.random((300, 20)) * (rng.random((300, 20)) < 0.2)
    X = codes @ rng.standard_normal((20, 12))
    X.flags.writeable = False
    return X


@pytest.fixture(scope="session")
def sae(X):
    return MFRSparseAutoencoder(
        n_components=20,
        k=3,
        n_saes=2,
        n_witnesses=1,
        alpha=0.01,
        max_steps=60,
        callback=TrainingHistory(),
        random_state=0,
    ).fit(X)


@pytest.fixture(scope="session")
def alone(X):
    """One SAE with nothing to agree with."""
    return MFRSparseAutoencoder(
        n_components=20, k=3, n_saes=1, n_witnesses=0, max_steps=10, random_state=0
    ).fit(X)


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if matplotlib were not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium that fetches nothing of its own."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    folder = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(paths[1])
    driver = webdriver.Chrome(options=options, service=service)
    driver.downloads = folder / "downloads"
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(driver.downloads)},
    )
    yield driver
    driver.quit()
