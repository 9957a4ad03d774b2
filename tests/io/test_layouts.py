"""SAEs of all kinds, by their rules as written here, and by the packages themselves."""

import json

import numpy as np
import pytest
import torch
from layouts import DICTIONARY_LEARNING, LAYOUTS, SAE_LENS, D, K, M, gemma_scope

from benchmarks._layouts import LAYOUTS as WRITTEN
from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.io import from_dictionary_learning, from_sae_lens, from_sparsify
from skmfr.io._opening import open_sae


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).standard_normal((200, D)).astype(np.float32) + 1


def assert_close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_codes_and_reconstructions_are_those_of_the_format(tmp_path, X, layout):
    forward = layout(tmp_path, np.random.default_rng(1))
    sae = open_sae(tmp_path)
    codes, reconstructed = forward(X)
    # Neither nothing nor all is active.
    assert 0.05 < (codes > 0).mean() < 0.95
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)
    assert_close(sae.inverse_transform(codes), reconstructed)
    sparse_codes = sae.set_params(sparse_output=True).transform(X)
    assert_close(sparse_codes.toarray(), codes)
    assert sparse_codes.has_sorted_indices


def test_topk_is_an_estimator_to_train_and_all_else_is_pretrained(tmp_path):
    draw = np.random.default_rng(1)
    for name, layout in LAYOUTS.items():
        folder = tmp_path / name
        folder.mkdir()
        layout(folder, draw)
        sae = open_sae(folder)
        ours = name == "AutoEncoderTopK"
        assert type(sae) is (MFRSparseAutoencoder if ours else PretrainedSAE)
        is_topk = ours or name.endswith("of different norms")
        assert sae.k == (K if is_topk else None)
        assert (sae.threshold_ is None) == is_topk


def test_gemma_scope_is_read_from_its_file_too(tmp_path, X):
    codes, _ = gemma_scope(tmp_path, np.random.default_rng(1))(X)
    assert_close(from_sae_lens(tmp_path / "params.npz").transform(X), codes)


def test_the_kind_of_an_ae_pt_alone_is_known_unless_two_look_alike(tmp_path, X):
    for name, layout in DICTIONARY_LEARNING.items():
        codes, _ = layout(tmp_path, np.random.default_rng(1))(X)
        (tmp_path / "config.json").unlink()
        if name.split(",")[0] in ("AutoEncoderTopK", "BatchTopKSAE"):
            with pytest.raises(ValueError, match="AutoEncoderTopK or BatchTopKSAE"):
                from_dictionary_learning(tmp_path)
        else:
            sae = from_dictionary_learning(tmp_path / "ae.pt")
            assert_close(sae.transform(X), codes)


def test_topk_that_kept_neither_threshold_nor_k_is_read(tmp_path, X):
    codes, _ = DICTIONARY_LEARNING["AutoEncoderTopK"](
        tmp_path, np.random.default_rng(1)
    )(X)
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    del state["k"], state["threshold"]
    torch.save(state, tmp_path / "ae.pt")
    assert_close(from_dictionary_learning(tmp_path).transform(X), codes)


def test_an_atom_of_zeros_stays_zero(tmp_path, X):
    codes, _ = DICTIONARY_LEARNING["AutoEncoder"](tmp_path, np.random.default_rng(1))(X)
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    state["decoder.weight"][:, 2] = 0.0
    torch.save(state, tmp_path / "ae.pt")
    sae = from_dictionary_learning(tmp_path)
    assert not sae.components_[2].any()
    others = np.arange(M) != 2
    assert_close(sae.transform(X)[:, others], codes[:, others])
    assert np.isfinite(sae.reconstruct(X)).all()


def test_folders_of_no_format_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no SAE: none of sae_weights"):
        open_sae(tmp_path)


# With the packages themselves.


@pytest.mark.parametrize("name", SAE_LENS)
def test_sae_lens_has_the_same_codes(tmp_path, X, name):
    sae_lens = pytest.importorskip("sae_lens")
    SAE_LENS[name](tmp_path, np.random.default_rng(1))
    peer = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        codes = peer.encode(torch.tensor(X))
        reconstructed = peer.decode(codes)
    sae = from_sae_lens(tmp_path)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


@pytest.mark.parametrize(
    "layout", WRITTEN, ids=[f"{each.package}-{each.kind}" for each in WRITTEN]
)
def test_what_packages_write_is_read_as_they_read_it(tmp_path, X, layout):
    pytest.importorskip(layout.package.removeprefix("eai-").replace("-", "_"))
    forward = layout.write(tmp_path)
    with torch.no_grad():
        codes, reconstructed = forward(torch.tensor(X))
    assert 0.05 < (codes > 0).double().mean() < 0.95
    sae = open_sae(tmp_path)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


def test_a_factor_of_activations_is_folded_as_sae_lens_does(tmp_path, X):
    sae_lens = pytest.importorskip("sae_lens")
    entries = {"normalize_activations": "expected_average_only_in"}
    SAE_LENS["jumprelu, not subtracted"](tmp_path, np.random.default_rng(1))
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | entries))
    peer = sae_lens.SAE.load_from_disk(tmp_path)
    peer.fold_activation_norm_scaling_factor(0.3)
    with torch.no_grad():
        codes = peer.encode(torch.tensor(X))
        reconstructed = peer.decode(codes)
    sae = from_sae_lens(tmp_path, norm_scaling_factor=0.3)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


@pytest.mark.parametrize("name", DICTIONARY_LEARNING)
def test_dictionary_learning_has_the_same_codes(tmp_path, X, name):
    utils = pytest.importorskip("dictionary_learning.utils")
    DICTIONARY_LEARNING[name](tmp_path, np.random.default_rng(1))
    peer, _ = utils.load_dictionary(str(tmp_path), device="cpu")
    with torch.no_grad():
        codes = peer.encode(torch.tensor(X))
        reconstructed = peer.decode(codes)
    sae = from_dictionary_learning(tmp_path)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


def test_sparsify_has_the_same_codes(tmp_path, X):
    sparsify = pytest.importorskip("sparsify")
    LAYOUTS["sparsify of different norms"](tmp_path, np.random.default_rng(1))
    peer = sparsify.SparseCoder.load_from_disk(tmp_path)
    with torch.no_grad():
        values, indices, _ = peer.encode(torch.tensor(X))
        codes = torch.zeros(len(X), M).scatter(1, indices, values)
        reconstructed = peer.decode(values, indices)
    sae = from_sparsify(tmp_path)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)
