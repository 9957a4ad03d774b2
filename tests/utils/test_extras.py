"""Packages that only parts of skmfr need: imported when used, and named if missing."""

import sys

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder, activations, eeg, io
from skmfr.activations import ActivationExtractor
from skmfr.eeg._figures import _draw_atom
from skmfr.inspection import (
    DictionaryDisplay,
    FeatureAgreementDisplay,
    ReconstructionDisplay,
    SimilarityDisplay,
    TrainingCurveDisplay,
)

# A package, the extra that brings it, and what asks for it before it looks at anything.
USES = [
    ("matplotlib", "eeg", lambda: eeg.add_to_report(None, None, None)),
    ("matplotlib", "eeg", lambda: _draw_atom(None, 0, None, None, None, None)),
    ("matplotlib", "eeg", lambda: eeg.plot_overlay(None, None)),
    ("matplotlib", "plot", lambda: DictionaryDisplay.from_estimator(None)),
    ("matplotlib", "plot", lambda: FeatureAgreementDisplay.from_estimator(None, None)),
    ("matplotlib", "plot", lambda: ReconstructionDisplay.from_estimator(None, None)),
    ("matplotlib", "plot", lambda: SimilarityDisplay.from_estimator(None)),
    ("matplotlib", "plot", lambda: TrainingCurveDisplay.from_estimator(None)),
    ("pandas", "activations", lambda: activations.feature_table(None)),
    ("pandas", "activations", lambda: activations.Contexts.to_frame(None)),
    ("pandas", "eeg", lambda: eeg.score_atoms(None, None)),
    ("safetensors", "io", lambda: io.load("nothing")),
    ("transformers", "activations", lambda: ActivationExtractor("a", "b").fit([[1]])),
]


@pytest.mark.parametrize(("package", "extra", "use"), USES)
def test_what_to_install_is_said(monkeypatch, package, extra, use):
    for name in (package, f"{package}.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as raised:
        use()
    assert str(raised.value).endswith(f'pip install "skmfr[{extra}]".')
    assert package in str(raised.value)
    assert raised.value.name.startswith(package)


def test_maps_of_the_head_say_what_to_install(monkeypatch):
    mne = pytest.importorskip("mne")
    pytest.importorskip("matplotlib").use("agg")
    info = mne.create_info(["Fz", "Cz", "Pz", "Oz"], 100.0, "eeg", verbose="error")
    info.set_montage("standard_1020", verbose="error")
    X = np.random.default_rng(0).standard_normal((50, 4))
    sae = MFRSparseAutoencoder(8, k=2, alpha=0, max_steps=5).fit(X)
    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=r'with info .*pip install "skmfr\[eeg\]"'):
        DictionaryDisplay.from_estimator(sae, info=info)
