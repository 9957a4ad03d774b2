"""Packages that only parts of skmfr need: imported when used, and named if missing."""

import subprocess
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

IMPORTED = """
import importlib, sys

def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} during an import")

heavy, *stages = (argument.split() for argument in sys.argv[1:])
sys.addaudithook(audit)
for names in stages:
    for name in names:
        importlib.import_module(name)
    print(*(name for name in heavy if name in sys.modules))
"""
HEAVY = (
    "dask matplotlib mne numba pandas polars pooch safetensors torch transformers "
    "triton zarr"
)
LIGHT = "agreement datasets eeg inspection io metrics"
# Each after those before it, in one process.
STAGES = {
    "scikit-learn": "sklearn.decomposition",
    "light": " ".join(["skmfr", *(f"skmfr.{name}" for name in LIGHT.split())]),
    "torch": "torch.distributed.nn.functional",
    "about torch": "skmfr.activations skmfr.distributed",
    "training": "skmfr._estimator skmfr._training.fit skmfr._sae.coder",
}


@pytest.fixture(scope="module")
def imported():
    """Which heavy packages are imported after each stage."""
    arguments = [sys.executable, "-c", IMPORTED, HEAVY, *STAGES.values()]
    run = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found = (set(line.split()) for line in run.stdout.splitlines())
    return dict(zip(STAGES, found, strict=True))


def test_imports_are_light_and_need_no_network(imported):
    # scikit-learn may import some itself.
    assert imported["light"] == imported["scikit-learn"]


def test_what_is_about_torch_imports_it_and_nothing_else(imported):
    # With torch comes what it imports itself.
    assert "torch" in imported["torch"]
    assert imported["about torch"] == imported["torch"]


def test_training_imports_its_kernels_when_it_needs_them(imported):
    assert imported["training"] == imported["torch"]


# A package, the extra that brings it, and what asks for it before it looks at anything.
USES = [
    ("matplotlib", "eeg", lambda: eeg.add_to_report(None, None, None)),
    ("matplotlib", "eeg", lambda: _draw_atom(None, 0, None, None, None)),
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
