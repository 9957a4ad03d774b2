"""SAEs to and from sparsify's format: by its rules as written here, and by itself."""

import json

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.io import from_sparsify, to_sparsify

stored = pytest.importorskip("safetensors.numpy")
PLAIN = {
    "activation": "topk",
    "d_in": 8,
    "num_latents": 24,
    "k": 4,
    "normalize_decoder": True,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
}


def forward(config, weights, X):
    """Codes and reconstructions as sparsify defines them."""
    scores = (X - weights["b_dec"]) @ weights["encoder.weight"].T
    scores = (scores + weights["encoder.bias"]).clip(min=0)
    bar = np.sort(scores, axis=1)[:, -config["k"], None]
    codes = np.where(scores >= bar, scores, 0)
    return codes, codes @ weights["W_dec"] + weights["b_dec"]


def weights_with_norms(norms, dtype=np.float32):
    draw = np.random.default_rng(1)
    atoms = draw.standard_normal((24, 8))
    atoms *= norms / np.linalg.norm(atoms, axis=1, keepdims=True)
    weights = {
        "encoder.weight": draw.standard_normal((24, 8)),
        "encoder.bias": draw.standard_normal(24),
        "W_dec": atoms,
        "b_dec": draw.standard_normal(8),
    }
    return {name: array.astype(dtype) for name, array in weights.items()}


def write(folder, config, weights):
    (folder / "cfg.json").write_text(json.dumps(config))
    stored.save_file(weights, folder / "sae.safetensors")


def assert_close(value, expected, tolerance=1e-5):
    np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


def test_export_is_the_encoder_by_the_rules_of_the_format(tmp_path, sae, make_samples):
    to_sparsify(sae, tmp_path / "layers.2.mlp")
    config = json.loads((tmp_path / "layers.2.mlp" / "cfg.json").read_text())
    weights = stored.load_file(tmp_path / "layers.2.mlp" / "sae.safetensors")
    known = config.pop("skmfr_agreement", None)
    assert (known is None) == (len(sae.dictionaries_) == 1)
    assert config == PLAIN
    assert {name: array.shape for name, array in weights.items()} == {
        "encoder.weight": (24, 8),
        "encoder.bias": (24,),
        "W_dec": (24, 8),
        "b_dec": (8,),
    }
    codes, reconstructed = forward(config, weights, make_samples())
    sae.set_params(transform_algorithm="encoder")
    assert_close(sae.transform(make_samples()), codes)
    assert_close(sae.reconstruct(make_samples()), reconstructed)


def test_export_comes_back(tmp_path, sae, make_samples):
    to_sparsify(sae, tmp_path)
    imported = from_sparsify(tmp_path)
    sae.set_params(transform_algorithm="encoder")
    assert imported.components_.dtype == sae.components_.dtype
    assert_close(imported.transform(make_samples()), sae.transform(make_samples()))
    assert_close(imported.reconstruct(make_samples()), sae.reconstruct(make_samples()))
    assert imported.partial_fit(make_samples()).n_steps_ == 1


@pytest.mark.parametrize("norm", [1.0, 3.0])
def test_common_norm_is_folded(tmp_path, norm, make_samples):
    weights = weights_with_norms(norm)
    write(tmp_path, PLAIN, weights)
    sae = from_sparsify(tmp_path)
    codes, reconstructed = forward(PLAIN, weights, make_samples())
    assert_close(sae.transform(make_samples()), codes * norm, 2e-5)
    assert_close(sae.reconstruct(make_samples()), reconstructed, 2e-5)


@pytest.mark.parametrize(
    ("spread", "kind"), [(0.0009, MFRSparseAutoencoder), (0.0011, PretrainedSAE)]
)
def test_norms_that_differ_by_more_than_a_thousandth_are_kept(tmp_path, spread, kind):
    norms = np.linspace(1, 1 + spread, 24)[:, None]
    write(tmp_path, PLAIN, weights_with_norms(norms))
    assert type(from_sparsify(tmp_path)) is kind


def test_lacking_entries_mean_what_they_do_in_sparsify(tmp_path, make_samples):
    draw = np.random.default_rng(0)
    weights = {
        "encoder.weight": draw.standard_normal((64, 8)),
        "encoder.bias": draw.standard_normal(64),
        "W_dec": np.tile(np.eye(8), (8, 1)),
        "b_dec": draw.standard_normal(8),
    }
    write(tmp_path, {"d_in": 8, "expansion_factor": 8, "num_latents": 0}, weights)
    sae = from_sparsify(tmp_path)
    X = make_samples(dtype=np.float64)
    assert_close(sae.transform(X), forward({"k": 32}, weights, X)[0], 1e-12)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation": "groupmax"}, "activation='groupmax', expected 'topk'"),
        ({"skip_connection": True}, "skip_connection=True: it is an SAE with a skip"),
        ({"transcode": True}, "transcode=True: it is a transcoder"),
        ({"signed": True}, "signed=True, expected False"),
        ({"d_in": 9}, "d_in=9, expected 8"),
        ({"d_in": None}, "d_in=None, expected 8"),
        ({"num_latents": 25}, "num_latents=25, expected 24"),
        ({"k": 2.0}, "k=2.0, expected an integer from 1 to 24"),
    ],
)
def test_other_saes_are_refused(tmp_path, entries, message):
    write(tmp_path, PLAIN | entries, weights_with_norms(1.0))
    with pytest.raises(ValueError, match=message) as raised:
        from_sparsify(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_other_weights_are_refused(tmp_path):
    write(tmp_path, PLAIN, weights_with_norms(1.0) | {"W_skip": np.zeros((8, 8))})
    with pytest.raises(ValueError, match="unexpected arrays: W_skip"):
        from_sparsify(tmp_path)


# With sparsify itself.


@pytest.fixture(scope="session")
def sparsify():
    return pytest.importorskip("sparsify")


def through(peer, X):
    """Codes and reconstructions of sparsify."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        values, indices, _ = peer.encode(torch.from_numpy(X))
        codes = torch.zeros(len(X), 24, dtype=values.dtype).scatter(1, indices, values)
        return codes.numpy(), peer.decode(values, indices).numpy()


def test_sparsify_opens_exports(tmp_path, sparsify, sae, make_samples):
    to_sparsify(sae, tmp_path / "layers.2.mlp")
    peer = sparsify.SparseCoder.load_many(str(tmp_path), local=True)["layers.2.mlp"]
    X = make_samples(dtype=sae.components_.dtype)
    codes, reconstructed = through(peer, X)
    sae.set_params(transform_algorithm="encoder")
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


def test_saes_of_sparsify_can_be_imported(tmp_path, sparsify, make_samples):
    torch = pytest.importorskip("torch")
    config = sparsify.SparseCoderConfig(num_latents=24, k=4)
    peer = sparsify.SparseCoder(8, config)
    weights = weights_with_norms(1.0)
    peer.load_state_dict({name: torch.tensor(each) for name, each in weights.items()})
    peer.save_to_disk(tmp_path)
    sae = from_sparsify(tmp_path)
    codes, reconstructed = through(peer, make_samples())
    assert_close(sae.transform(make_samples()), codes)
    assert_close(sae.reconstruct(make_samples()), reconstructed)


def test_skip_connections_of_sparsify_are_refused(tmp_path, sparsify):
    config = sparsify.SparseCoderConfig(num_latents=24, k=4, skip_connection=True)
    sparsify.SparseCoder(8, config).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match="skip_connection=True"):
        from_sparsify(tmp_path)
