"""Whatever PyTorch was told, the same bytes, and what it was told still holds."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Barrier

import numpy as np
import pytest
import torch

from skmfr import MFRSparseAutoencoder
from skmfr._sae.arrays import coder_of
from skmfr.activations import ablate
from skmfr.agreement import feature_agreement, matched_cosine
from skmfr.io import from_sae_lens, to_sae_lens

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = np.random.default_rng(0).standard_normal((200, 12))


@contextmanager
def told(set_, value, before):
    set_(value)
    try:
        yield
    finally:
        set_(before)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    # Takes tensors, and forgets what they hold.
    "default device": lambda: told(torch.set_default_device, "meta", None),
    "device": lambda: torch.device("meta"),
    "default float64": lambda: told(
        torch.set_default_dtype, torch.float64, torch.float32
    ),
    "default float16": lambda: told(
        torch.set_default_dtype, torch.float16, torch.float32
    ),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": lambda: told(torch.use_deterministic_algorithms, True, False),
}
FITS = {
    "encoder": (np.float32, {}),
    "omp": (np.float32, {"transform_algorithm": "omp", "tied": True}),
    "lstsq": (np.float64, {"transform_algorithm": "lstsq", "precision": "float64"}),
    "bfloat16": (np.float32, {"precision": "bfloat16", "matching": "max"}),
}


def found(dtype, parameters):
    """What is computed with tensors, as arrays."""
    data = X.astype(dtype)
    sae = MFRSparseAutoencoder(
        24, k=3, max_steps=8, batch_size=50, reinit_threshold=0.5,
        reinit_every=3, random_state=0, **parameters,
    ).fit(data)  # fmt: skip
    return [
        sae.dictionaries_,
        sae.encoder_bias_,
        sae.loss_curve_,
        sae.trusted_,
        sae.transform(data),
        sae.reconstruct(data, trusted_only=True),
        sae.score(data),
        feature_agreement(sae.components_, [sae.dictionaries_[-1]]),
        matched_cosine(*sae.dictionaries_[:2]),
        *(array for _, array in sorted(sae._training.items())),
        sae.partial_fit(data).components_,
    ]


def surroundings():
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.empty(0).device,
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(scope="module")
def expected():
    return {name: found(*fit) for name, fit in FITS.items()}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_pytorch_was_told_changes_a_byte(expected, mode, fit):
    with MODES[mode]():
        before = surroundings()
        arrays = found(*FITS[fit])
        assert surroundings() == before
    for array, same in zip(arrays, expected[fit], strict=True):
        np.testing.assert_array_equal(array, same)


def test_threads_with_modes_of_their_own_do_not_disturb_each_other(expected):
    modes = [MODES["autocast"], MODES["inference mode"], MODES["device"], nullcontext]
    together = Barrier(len(modes), timeout=60)

    def in_thread(mode):
        with mode():
            before = surroundings()
            together.wait()
            arrays = found(*FITS["encoder"])
            assert surroundings() == before
        return arrays

    with ThreadPoolExecutor(len(modes)) as pool:
        for arrays in pool.map(in_thread, modes):
            for array, same in zip(arrays, expected["encoder"], strict=True):
                np.testing.assert_array_equal(array, same)


def test_a_coder_that_inference_mode_has_made_serves_gradients_as_well():
    sae = MFRSparseAutoencoder(24, k=3, max_steps=3, random_state=0).fit(X)
    rows = torch.from_numpy(X)
    with torch.inference_mode():
        coder = coder_of(sae, rows)
        decoded = coder.reconstruct(rows)
    assert coder_of(sae, rows) is coder
    weight = torch.ones((), dtype=rows.dtype, requires_grad=True)
    (weight * coder.atoms).sum().backward()
    (weight * decoded).sum().backward()
    expected = coder.atoms.sum() + decoded.sum()
    torch.testing.assert_close(weight.grad, expected)


def test_atoms_are_ablated_in_full_precision_inside_autocast():
    torch.manual_seed(0)
    first, last = torch.nn.Linear(12, 12), torch.nn.Linear(12, 3)
    model = torch.nn.Sequential(first, last)
    sae = MFRSparseAutoencoder(24, k=3, max_steps=30, random_state=0).fit(X)
    rows = torch.from_numpy(X).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with ablate(model, "0", sae, range(12)):
            found = model(rows)
        activations = first(rows)
    codes = sae.transform(activations.float().numpy())
    shift = -(codes[:, :12] @ sae.components_[:12])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = last(activations + torch.from_numpy(shift).to(activations))
    assert activations.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_weights_are_read_whatever_the_default_device(tmp_path):
    pytest.importorskip("safetensors")
    sae = MFRSparseAutoencoder(24, k=3, max_steps=3, random_state=0).fit(X)
    to_sae_lens(sae, tmp_path)
    with MODES["device"](), MODES["default float16"]():
        imported = from_sae_lens(tmp_path)
    np.testing.assert_allclose(imported.components_, sae.components_, rtol=1e-12)
