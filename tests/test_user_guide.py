"""The blocks of code in the documentation run, page by page, as they stand there."""

import re
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.utils import Bunch

from skmfr import MFRSparseAutoencoder
from skmfr._training import fit
from skmfr.eeg import _filters, _supervised
from skmfr.io import to_sae_lens

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/index.md"] + [
    str(page.relative_to(ROOT))
    for page in sorted((ROOT / "docs/user_guide").glob("*.md"))
]
# Steps of a fit, at most: what a page says is tested to run, not what is learned.
MOST_STEPS = 3


def code_blocks(page: str) -> list[str]:
    """Blocks of Python on a page, each on the lines where it stands there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for match in re.finditer(r"^( *)```python\n(.*?)^\1```$", text, re.M | re.S):
        n_lines_before = text[: match.start(2)].count("\n")
        blocks.append("\n" * n_lines_before + textwrap.dedent(match[2]))
    return blocks


def agreement_names() -> dict:
    """Two estimators, fitted on two halves of some data."""
    X = np.random.default_rng(0).standard_normal((100, 8))
    first, second = (
        MFRSparseAutoencoder(16, k=2, random_state=0).fit(half)
        for half in np.split(X, 2)
    )
    return {"first": first, "second": second}


def eeg_names() -> dict:
    """Noisy and clean epochs, labelled epochs of MNE, and a recording with an EOG."""
    mne = pytest.importorskip("mne")
    pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    epochs = rng.standard_normal((20, 2, 100)).cumsum(axis=2)
    recording = rng.standard_normal((4, 1000))
    info = mne.create_info(["Fp1", "Fp2", "Cz", "EOG"], 100, ["eeg"] * 3 + ["eog"])
    return {
        "noisy": epochs + 3 * rng.standard_normal(epochs.shape),
        "clean": epochs,
        "person": np.repeat(np.arange(5), 4),
        "new": epochs[:5],
        "epochs": mne.EpochsArray(
            1e-6 * epochs, mne.create_info(["C3", "C4"], 100, "eeg"), verbose="error"
        ),
        "labels": np.arange(20) % 2,
        "raw": mne.io.RawArray(1e-5 * recording, info, verbose="error"),
    }


def others_names() -> dict:
    """Folders of SAEs, and a model of tokens with what one layer of it gives."""
    pytest.importorskip("safetensors")
    torch.manual_seed(0)

    class Model(torch.nn.Sequential):
        def forward(self, tokens):
            return Bunch(logits=super().forward(tokens))

    model = Model(
        torch.nn.Embedding(30, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 30)
    )
    tokens = torch.arange(120).reshape(12, 10) % 30
    activations = model[1](model[0](tokens)).detach().flatten(0, 1).numpy()
    for i in range(2):
        sae = MFRSparseAutoencoder(16, n_saes=1, n_witnesses=0, k=2, random_state=i)
        to_sae_lens(sae.fit(activations), f"folder {i}")
    return {
        "folder": "folder 0",
        "second": "folder 1",
        "topk_folder": "folder 0",
        "model": model,
        "layer": "1",
        "tokens": tokens,
        "activations": activations,
    }


# What a page leaves to its reader: the reader's own data.
NAMES = {
    "docs/user_guide/agreement.md": agreement_names,
    "docs/user_guide/eeg.md": eeg_names,
    "docs/user_guide/others.md": others_names,
}


@pytest.fixture
def short_fits(monkeypatch):
    """Fits that end after a few steps, from little data."""
    monkeypatch.setattr(_supervised, "FIT_ROWS", 500)
    monkeypatch.setattr(_filters, "PENALTIES", _filters.PENALTIES[:1])
    n_steps_of = fit.n_steps_of
    monkeypatch.setattr(
        fit, "n_steps_of", lambda *arguments: min(n_steps_of(*arguments), MOST_STEPS)
    )
    # Processes would take seconds to start, and long fits.
    with joblib.parallel_config(backend="threading"):
        yield


@pytest.mark.usefixtures("short_fits")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_page_runs(page, tmp_path, monkeypatch):
    # Some write files.
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(page)
    if not blocks:
        pytest.skip("no code on this page")
    names = NAMES.get(page, dict)()
    for block in blocks:
        exec(compile(block, ROOT / page, "exec"), names)


def test_blocks_are_found_where_they_stand():
    page = "docs/user_guide/agreement.md"
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    blocks = code_blocks(page)
    assert len(blocks) == sum(line.strip() == "```python" for line in lines) > 1
    for block in blocks:
        last = block.splitlines()[-1]
        assert last.strip() == lines[block.count("\n") - 1].strip()
