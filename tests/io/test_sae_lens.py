"""SAEs to and from SAELens' format: by its rules as written here, and by itself."""

import json
from copy import deepcopy

import numpy as np
import pytest
from layouts import LAYOUTS, D

from skmfr.agreement import random_agreement
from skmfr.io import from_sae_lens, load, save, to_sae_lens
from skmfr.io._opening import open_sae

stored = pytest.importorskip("safetensors.numpy")
N_FEATURES, N_COMPONENTS, K = 8, 24, 4


def read(folder):
    config = json.loads((folder / "cfg.json").read_text())
    return config, stored.load_file(folder / "sae_weights.safetensors")


def forward(config, weights, X):
    """Codes and reconstructions as SAELens 6 defines them."""
    W_enc, b_enc, W_dec, b_dec = (
        weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    scores = (X - b_dec * config["apply_b_dec_to_input"]) @ W_enc + b_enc
    norms = np.ones(len(W_dec))
    if config["rescale_acts_by_decoder_norm"]:
        norms = np.linalg.norm(W_dec, axis=1)
    scores = scores * norms
    bar = np.sort(scores, axis=1)[:, -config["k"], None]
    codes = np.where(scores >= bar, scores.clip(min=0), 0)
    return codes, codes / norms @ W_dec + b_dec


def weights_with_norms(norms, dtype=np.float32):
    draw = np.random.default_rng(1)
    atoms = draw.standard_normal((N_COMPONENTS, N_FEATURES))
    atoms *= norms / np.linalg.norm(atoms, axis=1, keepdims=True)
    weights = {
        "W_enc": draw.standard_normal((N_FEATURES, N_COMPONENTS)),
        "b_enc": draw.standard_normal(N_COMPONENTS),
        "W_dec": atoms,
        "b_dec": draw.standard_normal(N_FEATURES),
    }
    return {name: array.astype(dtype) for name, array in weights.items()}


DIFFERENT_NORMS = np.linspace(0.5, 2, N_COMPONENTS)[:, None]
PLAIN = {
    "architecture": "topk",
    "d_in": N_FEATURES,
    "d_sae": N_COMPONENTS,
    "k": K,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
    "metadata": {"sae_lens_version": "6.0.0"},
}


def write(folder, config, weights):
    (folder / "cfg.json").write_text(json.dumps(config))
    stored.save_file(weights, folder / "sae_weights.safetensors")


def assert_close(value, expected, tolerance=1e-5):
    np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


def test_export_is_the_encoder_by_the_rules_of_the_format(tmp_path, sae, make_samples):
    folder = tmp_path / "new" / "folder"
    to_sae_lens(sae, folder, hook_name="blocks.2.hook_mlp_out", prepend_bos=True)
    config, weights = read(folder)

    dtype = str(sae.components_.dtype)
    metadata = config.pop("metadata")
    assert config | {"metadata": 0} == PLAIN | {"dtype": dtype, "metadata": 0}
    assert metadata.pop("sae_lens_version").startswith("6.")
    known = metadata.pop("skmfr_agreement", None)
    assert (known is None) == (len(sae.dictionaries_) == 1)
    assert metadata == {"hook_name": "blocks.2.hook_mlp_out", "prepend_bos": True}
    assert {name: array.shape for name, array in weights.items()} == {
        "W_enc": (N_FEATURES, N_COMPONENTS),
        "b_enc": (N_COMPONENTS,),
        "W_dec": (N_COMPONENTS, N_FEATURES),
        "b_dec": (N_FEATURES,),
    }
    assert {str(array.dtype) for array in weights.values()} == {dtype}
    files = ["agreement.safetensors"] if known else []
    assert sorted(file.name for file in folder.iterdir()) == [
        *files,
        "cfg.json",
        "sae_weights.safetensors",
    ]

    X = make_samples()
    codes, reconstructed = forward(config, weights, X)
    sae.set_params(transform_algorithm="encoder")
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


def test_export_comes_back(tmp_path, sae, make_samples):
    to_sae_lens(sae, tmp_path)
    imported = from_sae_lens(tmp_path)
    sae.set_params(transform_algorithm="encoder")
    for name in ("components_", "encoder_weights_", "encoder_bias_", "decoder_bias_"):
        assert_close(getattr(imported, name), getattr(sae, name), 1e-6)
        assert getattr(imported, name).dtype == getattr(sae, name).dtype
    assert_close(imported.transform(make_samples()), sae.transform(make_samples()))
    assert imported.score(make_samples()) == pytest.approx(
        sae.score(make_samples()), abs=1e-5
    )


@pytest.mark.parametrize(
    ("layout", "k", "message"),
    [
        ("jumprelu", 1, "has thresholds and k=1"),
        ("topk of different norms", None, "neither thresholds nor k"),
    ],
)
def test_what_sae_lens_does_not_know_is_refused(tmp_path, layout, k, message):
    LAYOUTS[layout](tmp_path, np.random.default_rng(1))
    sae = open_sae(tmp_path).set_params(k=k)
    with pytest.raises(ValueError, match=message):
        to_sae_lens(sae, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_topk_without_k_has_no_codes(tmp_path):
    LAYOUTS["topk of different norms"](tmp_path, np.random.default_rng(1))
    sae = open_sae(tmp_path).set_params(k=None)
    for codes in (lambda: sae.transform(np.zeros((2, D))), sae.to_torch):
        with pytest.raises(ValueError, match="k=None, but TopK needs"):
            codes()


def test_k_is_never_more_than_there_are_atoms(tmp_path, make_sae):
    to_sae_lens(make_sae().set_params(k=1000), tmp_path)
    assert read(tmp_path)[0]["k"] == N_COMPONENTS


def test_failed_export_leaves_the_old_one(tmp_path, make_sae):
    to_sae_lens(make_sae(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="JSON"):
        to_sae_lens(make_sae(), tmp_path, model_name=object())
    with pytest.raises(TypeError, match="is of type str"):
        to_sae_lens("sae", tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_interrupted_export_is_not_taken_for_an_sae(tmp_path, make_sae, monkeypatch):
    to_sae_lens(make_sae(), tmp_path)

    def interrupted(path):
        raise OSError("disk full")

    monkeypatch.setattr("skmfr.io._weights.replacing", interrupted)
    with pytest.raises(OSError, match="disk full"):
        to_sae_lens(make_sae(random_state=1), tmp_path)
    with pytest.raises(FileNotFoundError):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize(
    ("entries", "norms"),
    [
        ({}, 1.0),
        ({}, 3.0),
        ({"apply_b_dec_to_input": False}, 1.0),
        ({"rescale_acts_by_decoder_norm": True}, DIFFERENT_NORMS),
        (
            {"rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False},
            DIFFERENT_NORMS,
        ),
        ({"reshape_activations": "hook_z"}, 1.0),
    ],
)
def test_what_can_be_folded_is(tmp_path, entries, norms, make_samples):
    config, weights = PLAIN | entries, weights_with_norms(norms)
    write(tmp_path, config, weights)
    sae = from_sae_lens(tmp_path)
    X = make_samples()
    codes, reconstructed = forward(config, weights, X)
    if not config["rescale_acts_by_decoder_norm"]:
        codes = codes * norms
    assert_close(sae.transform(X), codes, 2e-5)
    assert_close(sae.reconstruct(X), reconstructed, 2e-5)
    assert_close(sae.inverse_transform(codes), reconstructed, 2e-5)
    assert_close(np.linalg.norm(sae.components_, axis=1), 1, 1e-6)


SCALED = {"normalize_activations": "expected_average_only_in"}


@pytest.mark.parametrize(
    "entries",
    [
        {"architecture": "jumprelu"},
        {"architecture": "jumprelu", "apply_b_dec_to_input": False},
        {"rescale_acts_by_decoder_norm": True},
        {},
    ],
)
def test_a_factor_of_activations_is_folded(tmp_path, entries, make_samples):
    config, factor = PLAIN | SCALED | entries, 0.3
    weights = weights_with_norms(DIFFERENT_NORMS if entries else 1.0)
    if "architecture" in entries:
        weights["threshold"] = np.linspace(0, 1, N_COMPONENTS, dtype=np.float32)
    write(tmp_path, config, weights)
    sae = from_sae_lens(tmp_path, norm_scaling_factor=factor)
    # It sees scaled activations, and what it gives is scaled back.
    X = make_samples()
    if "architecture" in entries:
        scores = factor * X - weights["b_dec"] * config["apply_b_dec_to_input"]
        scores = scores @ weights["W_enc"] + weights["b_enc"]
        codes = np.where(scores > weights["threshold"], scores.clip(min=0), 0)
        assert_close(sae.transform(X), codes)
        reconstructed = codes @ weights["W_dec"] + weights["b_dec"]
    else:
        codes, reconstructed = forward(config, weights, factor * X)
        # For atoms of unit norm, in the units of the samples.
        assert_close(sae.transform(X), codes / factor, 5e-5)
    assert (codes > 0).any()
    assert_close(sae.reconstruct(X), reconstructed / factor, 5e-5)


def test_a_factor_is_given_where_it_belongs_and_nowhere_else(tmp_path):
    write(tmp_path, PLAIN, weights_with_norms(1.0))
    with pytest.raises(ValueError, match=r"norm_scaling_factor=0\.3, but the SAE does"):
        from_sae_lens(tmp_path, norm_scaling_factor=0.3)
    for wrong in (0, -1.0, np.inf, "0.3", True):
        with pytest.raises(ValueError, match="'norm_scaling_factor' parameter"):
            from_sae_lens(tmp_path, norm_scaling_factor=wrong)


def test_factors_that_are_said_not_to_be_there_are_refused(tmp_path):
    factors = {"scaling_factor": np.linspace(1, 2, N_COMPONENTS)}
    write(tmp_path, PLAIN, weights_with_norms(1.0) | factors)
    with pytest.raises(ValueError, match="scaling_factor is not 1 everywhere, but"):
        from_sae_lens(tmp_path)


def test_lacking_entries_mean_what_they_do_in_sae_lens(tmp_path, make_samples):
    lacking = ("apply_b_dec_to_input", "normalize_activations", "metadata")
    config = {name: value for name, value in PLAIN.items() if name not in lacking}
    weights = weights_with_norms(1.0)
    write(tmp_path, config, weights)
    expected = forward(PLAIN, weights, make_samples())[1]
    assert_close(from_sae_lens(tmp_path).reconstruct(make_samples()), expected)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"architecture": "transcoder"},
            "architecture='transcoder', expected 'topk' or",
        ),
        ({"architecture": "jumprelu"}, "it lacks threshold"),
        (
            {"normalize_activations": "layer_norm"},
            "'layer_norm': the mean and deviation of each sample are in no code",
        ),
        (
            {"normalize_activations": "constant_norm_rescale"},
            "'constant_norm_rescale': the norm of each sample is in no code",
        ),
        (
            {"normalize_activations": "covariance_whitening"},
            "'covariance_whitening': this is a checkpoint",
        ),
        ({"normalize_activations": "other"}, "'other', expected 'none' or 'expected"),
        ({"normalize_activations": ["none"]}, r"\['none'\], expected 'none' or"),
        (
            {"normalize_activations": "expected_average_only_in"},
            "no file has the factor: set norm_scaling_factor",
        ),
        ({"reshape_activations": "other"}, "reshape_activations='other'"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input=1, expected True or"),
        ({"d_in": 9}, "d_in=9, expected 8"),
        ({"d_sae": [24]}, r"d_sae=\[24\], expected 24"),
        ({"k": 0}, "k=0, expected an integer from 1 to 24"),
        ({"k": 25}, "k=25"),
        ({"k": "4"}, "k='4'"),
        ({"k": None}, "k=None"),
    ],
)
def test_other_saes_are_refused(tmp_path, entries, message):
    write(tmp_path, PLAIN | entries, weights_with_norms(1.0))
    with pytest.raises(ValueError, match=message) as raised:
        from_sae_lens(tmp_path)
    assert str(tmp_path) in str(raised.value)


# As SAELens 3 to 5 wrote it.
OLD = {
    "d_in": N_FEATURES,
    "d_sae": N_COMPONENTS,
    "activation_fn_str": "topk",
    "activation_fn_kwargs": {"k": K},
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "normalize_activations": "none",
    "dtype": "torch.float32",
    "device": "cuda",
    "model_name": "gpt2-small",
    "hook_name": "blocks.8.hook_resid_pre",
    "hook_layer": 8,
    "hook_head_index": None,
    "prepend_bos": True,
    "context_size": 128,
    "sae_lens_training_version": "3.18.2",
}


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"architecture": "standard"},
        {"architecture": "topk", "normalize_activations": None},
        {"apply_b_dec_to_input": False, "normalize_activations": False},
        {"sae_lens_version": "5.11.0", "architecture": "standard"},
        {"sae_lens_version": "5.11.0", "normalize_activations": None},
        {"metadata": {"sae_lens_version": "5.10.0"}, "architecture": "topk"},
        # SAELens takes the k of the activation function before the one beside it.
        {"sae_lens_version": "5.0.0", "architecture": "standard", "k": K + 1},
        {"architecture": "standard", "k": K + 1},
    ],
)
def test_topk_saes_of_versions_before_6_are_read(tmp_path, entries, make_samples):
    weights, X = weights_with_norms(1.0), make_samples()
    write(tmp_path, OLD | entries, weights)
    sae = from_sae_lens(tmp_path)
    # Their rules: TopK, then ReLU, of (x - b_dec) W_enc + b_enc.
    shift = weights["b_dec"] if (OLD | entries)["apply_b_dec_to_input"] else 0
    scores = (X - shift) @ weights["W_enc"] + weights["b_enc"]
    codes = np.zeros_like(scores)
    largest = np.argsort(scores, axis=1)[:, -K:]
    np.put_along_axis(codes, largest, np.take_along_axis(scores, largest, 1), 1)
    codes = codes.clip(min=0)
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), codes @ weights["W_dec"] + weights["b_dec"])
    assert sae.k == K


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str='tanh-relu', expected"),
        (
            {"activation_fn_str": "tanh-relu", "sae_lens_version": "5.11.0"},
            "activation_fn_str='tanh-relu', expected",
        ),
        (
            {"architecture": "other", "activation_fn_str": "relu"},
            "architecture='other', expected 'topk' or",
        ),
        ({"activation_fn_kwargs": {}}, "k=None, expected an integer from 1 to 24"),
        ({"activation_fn_kwargs": [4]}, "k=None"),
        ({"normalize_activations": True}, "set norm_scaling_factor"),
        ({"finetuning_scaling_factor": 2}, "finetuning_scaling_factor=2, expected"),
    ],
)
def test_other_saes_of_versions_before_6_are_refused(tmp_path, entries, message):
    write(tmp_path, OLD | entries, weights_with_norms(1.0))
    with pytest.raises(ValueError, match=message):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize("version", ["6.0.0rc1", "6.0.0", "10.0"])
def test_later_versions_have_no_activation_function(tmp_path, version):
    """As SAELens, which ignores the entries of earlier versions there."""
    later = OLD | {"sae_lens_version": version, "architecture": "topk", "k": K - 1}
    write(tmp_path, later, weights_with_norms(1.0))
    assert from_sae_lens(tmp_path).k == K - 1


def test_sae_without_architecture_is_refused(tmp_path):
    write(tmp_path, {"d_in": 8, "d_sae": 24, "k": 4}, weights_with_norms(1.0))
    with pytest.raises(ValueError, match="architecture=None, expected 'topk'"):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_enc": np.zeros((24, 8))}, r"W_enc is F64 of shape \(24, 8\)"),
        ({"b_dec": np.zeros(8, dtype=int)}, "b_dec is I64"),
        ({"b_enc": np.full(24, np.nan)}, "b_enc has numbers that are not finite"),
        ({"W_dec": np.zeros((24, 8))}, "24 of 24 atoms are zero"),
        (
            {
                "W_enc": np.zeros((8, 0)),
                "b_enc": np.zeros(0),
                "W_dec": np.zeros((0, 8)),
            },
            "no atoms",
        ),
        ({"threshold": np.zeros(24)}, "unexpected arrays: threshold"),
        ({"b_enc": None}, "lacks b_enc"),
    ],
)
def test_other_weights_are_refused(tmp_path, changes, message):
    weights = weights_with_norms(1.0) | changes
    write(tmp_path, PLAIN, {k: v for k, v in weights.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '"topk"', "[" * 10**6, "\xff"])
def test_broken_configuration_is_refused(tmp_path, content):
    write(tmp_path, PLAIN, weights_with_norms(1.0))
    (tmp_path / "cfg.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=tmp_path.name):
        from_sae_lens(tmp_path)


def test_truncated_weights_are_refused_and_missing_files_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cfg.json"):
        from_sae_lens(tmp_path)
    write(tmp_path, PLAIN, weights_with_norms(1.0))
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="sae_weights.safetensors is not a complete"):
        from_sae_lens(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="sae_weights.safetensors"):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_becomes_single(tmp_path, dtype, make_samples):
    torch = pytest.importorskip("torch")
    torch_stored = pytest.importorskip("safetensors.torch")
    rounded = {
        name: torch.from_numpy(array).to(getattr(torch, dtype))
        for name, array in weights_with_norms(1.0).items()
    }
    write(tmp_path, PLAIN, {})
    torch_stored.save_file(rounded, tmp_path / "sae_weights.safetensors")
    sae = from_sae_lens(tmp_path)
    assert sae.components_.dtype == sae.encoder_bias_.dtype == np.float32
    weights = {name: tensor.float().numpy() for name, tensor in rounded.items()}
    assert_close(
        sae.reconstruct(make_samples()), forward(PLAIN, weights, make_samples())[1]
    )


@pytest.fixture
def imported(tmp_path):
    write(tmp_path, PLAIN, weights_with_norms(1.0))
    return from_sae_lens(tmp_path)


def test_imported_sae_has_no_agreement(imported, make_sae):
    assert imported.n_saes == 1
    assert imported.n_witnesses == 0
    assert imported.dictionaries_.shape == (1, N_COMPONENTS, N_FEATURES)
    assert imported.witness_dictionaries_.shape == (0, N_COMPONENTS, N_FEATURES)
    assert np.isnan(imported.feature_agreement_).all()
    assert np.isnan(imported.mutual_agreement_).all()
    assert imported.mutual_agreement_.shape == (1, N_COMPONENTS)
    assert not imported.trusted_.any()
    assert imported.agreement_null_ == random_agreement(N_FEATURES, N_COMPONENTS)
    assert np.isnan(imported.reappearance_).all()
    # Just those that a fit of one SAE leaves, and the one that it computes when read.
    alone = make_sae(n_saes=1, n_witnesses=0)
    attributes = {name for name in vars(alone) if name.endswith("_")}
    assert attributes | {"reappearance_"} == {
        name for name in vars(imported) if name.endswith("_")
    }


def test_training_goes_on_from_an_import(imported, make_samples):
    X = make_samples(200) + 3
    imported.set_params(batch_size=200, random_state=0)
    fvu, atoms = 1 - imported.score(X), imported.components_
    imported.partial_fit(X)
    # The FVU of a batch is that before its step.
    assert imported.loss_curve_ == pytest.approx([fvu], rel=1e-4)
    assert imported.n_steps_ == 1
    assert 0.999 < np.sum(imported.components_ * atoms, axis=1).min() < 1
    for _ in range(20):
        imported.partial_fit(X)
    assert 1 - imported.score(X) < fvu
    with pytest.raises(ValueError, match="X has 3 features, but MFRSparse"):
        imported.partial_fit(X[:, :3])


# Of weights that nobody has trained.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_import_is_the_first_of_a_group_that_starts_near_it(imported, make_samples):
    X = make_samples(200) + 3
    fvu, atoms = 1 - imported.score(X), imported.components_
    imported.set_params(
        n_saes=3, n_witnesses=1, warm_start=True, batch_size=200, random_state=0
    )
    imported.set_params(max_steps=1, learning_rate=1e-9)
    history = []
    imported.callback = lambda step, info: history.append(info["k"])
    imported.fit(X)
    # k does not fall to its value a second time.
    assert history == [K]
    cosines = np.sum(imported.dictionaries_ * atoms, axis=2)
    np.testing.assert_allclose(cosines[0], 1, atol=1e-5)
    # Noise of half the length of an atom, and of another direction in each.
    assert 0.7 < cosines[1:].min() < cosines[1:].max() < 0.99
    assert (
        np.sum(imported.dictionaries_[1] * imported.dictionaries_[2], 1) < 0.99
    ).all()
    # A witness knows nothing of it.
    assert np.mean(imported.witness_dictionaries_[0] @ atoms.T > 0.99) == 0
    # The reference is the import until others are better.
    assert imported.reference_sae_ == 0
    assert 1 - imported.score(X) == pytest.approx(fvu, rel=1e-3)
    assert not np.isnan(imported.feature_agreement_).any()


def test_training_goes_on_only_from_what_the_parameters_say(imported, make_samples):
    codes = imported.transform(make_samples())
    imported.set_params(warm_start=True, max_steps=5)
    for name, value in [("n_components", 30), ("tied", True)]:
        other = deepcopy(imported).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"{name}={value}, but the SAE to cont"):
            other.fit(make_samples())
    np.testing.assert_array_equal(imported.transform(make_samples()), codes)
    assert imported.set_params(warm_start=False).fit(make_samples()).n_steps_ == 5
    assert imported.partial_fit(make_samples()).n_steps_ == 6


def test_imported_sae_can_be_saved(imported, tmp_path, make_samples):
    save(imported, tmp_path / "sae.safetensors")
    loaded = load(tmp_path / "sae.safetensors")
    np.testing.assert_array_equal(
        loaded.transform(make_samples()), imported.transform(make_samples())
    )
    assert vars(loaded).keys() == vars(imported).keys()
    assert loaded.partial_fit(make_samples()).n_steps_ == 1


# With SAELens itself.


@pytest.fixture(scope="session")
def sae_lens():
    return pytest.importorskip("sae_lens")


def through(peer, X):
    """Codes and reconstructions of SAELens."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        codes = peer.encode(torch.from_numpy(X))
        return codes.numpy(), peer.decode(codes).numpy()


def test_sae_lens_opens_exports(tmp_path, sae_lens, sae, make_samples):
    to_sae_lens(sae, tmp_path, model_name="gpt2", hook_name="blocks.0.hook_mlp_out")
    peer = sae_lens.SAE.load_from_disk(tmp_path)
    assert type(peer).__name__ == "TopKSAE"
    assert peer.cfg.metadata.model_name == "gpt2"
    assert peer.cfg.metadata.hook_name == "blocks.0.hook_mlp_out"
    X = make_samples(dtype=sae.components_.dtype)
    codes, reconstructed = through(peer, X)
    sae.set_params(transform_algorithm="encoder")
    assert_close(sae.transform(X), codes)
    assert_close(sae.reconstruct(X), reconstructed)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
@pytest.mark.parametrize("rescaled", [False, True])
def test_saes_of_sae_lens_can_be_imported(
    tmp_path, sae_lens, training, apply_b_dec_to_input, rescaled, make_samples
):
    torch = pytest.importorskip("torch")
    kind = "TopKTrainingSAE" if training else "TopKSAE"
    config = getattr(sae_lens, f"{kind}Config")(
        N_FEATURES,
        N_COMPONENTS,
        k=K,
        apply_b_dec_to_input=apply_b_dec_to_input,
        rescale_acts_by_decoder_norm=rescaled,
    )
    peer = getattr(sae_lens, kind)(config)
    weights = weights_with_norms(DIFFERENT_NORMS if rescaled else 1.0)
    peer.load_state_dict({name: torch.tensor(each) for name, each in weights.items()})
    peer.save_model(tmp_path)
    sae = from_sae_lens(tmp_path)
    codes, reconstructed = through(peer, make_samples())
    assert_close(sae.transform(make_samples()), codes)
    assert_close(sae.reconstruct(make_samples()), reconstructed)
