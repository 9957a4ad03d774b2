"""Fitted estimators that come back whole, or not at all."""

import json
import pickle
import struct
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skmfr import MFRSparseAutoencoder
from skmfr.agreement import reappearance
from skmfr.io import load, save
from skmfr.metrics import agreement_scorer, reappearance_scorer

stored = pytest.importorskip("safetensors.numpy")
# A file of format version 1, and what its estimator does.
VERSION_1 = Path(__file__).with_name("version_1.safetensors")
VERSION_2 = Path(__file__).with_name("version_2.safetensors")
VERSION_3 = Path(__file__).with_name("version_3.safetensors")


def samples(n=200, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(dtype)


def fitted(X=None, **parameters):
    usual = {
        "n_components": 12,
        "k": 3,
        "alpha": 0.1,
        "n_witnesses": 1,
        "max_steps": 20,
        "random_state": 0,
    }
    sae = MFRSparseAutoencoder(**(usual | parameters))
    return sae.fit(samples() if X is None else X)


def assert_equal(one, other):
    """Everything that estimators consist of is the same, to the byte."""
    assert one.get_params() == other.get_params()
    parameters = one.get_params().keys()
    one, other = (
        {name: value for name, value in vars(each).items() if name not in parameters}
        for each in (one, other)
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_same(value, other[name])


def assert_same(value, expected):
    assert type(value) is type(expected)
    if isinstance(value, dict):
        assert value.keys() == expected.keys()
        for name, each in value.items():
            assert_same(each, expected[name])
    elif hasattr(value, "__dataclass_fields__"):
        assert_same(vars(value), vars(expected))
    elif isinstance(value, np.ndarray):
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        if value.dtype == object:
            assert value.tolist() == expected.tolist()
        else:
            assert value.tobytes() == expected.tobytes()
    else:
        # NaN is what is not known.
        assert value == expected or (value != value and expected != expected)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sae.safetensors"


def saved_and_loaded(sae, path):
    save(sae, path)
    return load(path)


FITS = {
    "batchtopk": {"activation": "batchtopk"},
    "default": {},
    "tied": {"tied": True},
    "alone": {"n_saes": 1, "n_witnesses": 0},
    "no witness": {"n_witnesses": 0},
    "in float64": {"precision": "float64"},
    "with moments": {"warm_start": True},
    "tied, with moments": {"warm_start": True, "tied": True},
    "nearest": {"matching": "max", "n_saes": 4, "n_witnesses": 2, "warm_start": True},
    "pursuit": {"transform_algorithm": "omp", "sparse_output": True},
    "one atom": {"n_components": 1},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parameters", FITS.values(), ids=FITS)
def test_estimator_comes_back_as_it_was(path, parameters, dtype):
    X = samples(dtype=dtype)
    sae = fitted(X, **parameters)
    loaded = saved_and_loaded(sae, path)
    assert_equal(loaded, sae)
    codes, expected = (
        pickle.dumps(each.transform(samples(50, dtype, seed=1)))
        for each in (loaded, sae)
    )
    assert codes == expected


@pytest.mark.filterwarnings("ignore:.*of its variance")
def test_outliers_are_remembered(path):
    X = samples()
    X[::64] *= 100
    sae = fitted(X)
    loaded = saved_and_loaded(sae, path)
    assert loaded.n_outliers_ == len(X[::64])
    for each in (sae, loaded):
        each.partial_fit(X[:100])
    assert loaded.n_outliers_ == len(X[::64]) + 2
    assert_equal(loaded, sae)


def test_rows_of_witnesses_are_remembered(path):
    sae = fitted(n_witnesses=2, witness_rows="disjoint")
    loaded = saved_and_loaded(sae, path)
    assert loaded.witness_rows_ == "disjoint"
    np.testing.assert_array_equal(reappearance(loaded, 0.7), reappearance(sae, 0.7))


@pytest.mark.parametrize("parameters", FITS.values(), ids=FITS)
def test_training_goes_on_as_if_nothing_had_happened(path, parameters):
    sae = fitted(**parameters)
    loaded = saved_and_loaded(sae, path)
    for each in (sae, loaded):
        each.partial_fit(samples(seed=2))
    assert_equal(loaded, sae)
    loaded = saved_and_loaded(sae, path)
    for each in (sae, loaded):
        each.set_params(warm_start=True, max_steps=20).fit(samples(seed=3))
    assert_equal(loaded, sae)


def test_training_goes_on_with_more_than_ten_saes(path):
    # Matches of SAEs 0 and 10 come before those of 0 and 2 in the alphabet.
    sae = fitted(n_saes=12, n_components=4, k=1, warm_start=True)
    loaded = saved_and_loaded(sae, path)
    for each in (sae, loaded):
        each.fit(samples(seed=1))
    assert_equal(loaded, sae)


def test_sae_of_one_feature_comes_back(path):
    sae = fitted(samples()[:, :1])
    assert_equal(saved_and_loaded(sae, path), sae)


def test_names_and_kind_of_output_come_back(path):
    X = pd.DataFrame(samples(), columns=["a", "b", "ä", "<", "", "'"])
    sae = fitted(X).set_output(transform="pandas")
    loaded = saved_and_loaded(sae, path)
    assert_equal(loaded, sae)
    pd.testing.assert_frame_equal(loaded.transform(X), sae.transform(X))
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(X[X.columns[::-1]])


def test_parameters_that_json_lacks_come_back_as_plain_ones(path):
    sae = fitted(k=np.int64(3), alpha=np.float32(0.5), tied=np.True_)
    sae.set_params(device=torch.device("cpu"), learning_rate=1e-300)
    parameters = saved_and_loaded(sae, path).get_params()
    assert parameters == sae.get_params() | {"device": "cpu"}
    assert type(parameters["k"]) is int


def test_what_is_no_data_comes_back_as_none(path):
    sae = fitted(callback=lambda step, info: info)
    sae.set_params(random_state=np.random.RandomState(0))
    loaded = saved_and_loaded(sae, path)
    assert loaded.callback is None
    assert loaded.history_ == []
    assert loaded.random_state is None


@pytest.mark.parametrize("written", [False, True])
def test_a_loaded_model_does_not_write_where_another_did(
    path, tmp_path, monkeypatch, written
):
    folder = tmp_path / "checkpoints"
    sae = fitted().set_params(checkpoint_dir=folder, checkpoint_every=2)
    if written:  # by an earlier build
        monkeypatch.setattr("skmfr.io._native.LEFT_BEHIND", ("callback",))
        save(sae, path)
        monkeypatch.undo()
    else:
        save(sae, path)
    assert (str(folder).encode() in path.read_bytes()) == written
    loaded = load(path)
    assert loaded.checkpoint_dir is None
    loaded.fit(samples())
    assert not folder.exists()


def test_sae_of_a_gpu_loads_anywhere(path):
    sae = fitted()
    expected = sae.transform(samples())
    # Fitted state is NumPy: a GPU leaves nothing but its name.
    loaded = saved_and_loaded(sae.set_params(device="cuda:63"), path)
    with pytest.warns(UserWarning, match="using the CPU"):
        codes = loaded.transform(samples())
    np.testing.assert_array_equal(codes, expected)


def test_other_programs_can_read_the_arrays(path):
    sae = fitted()
    save(sae, path)
    arrays = stored.load_file(path)
    atoms = arrays["dictionaries_"][sae.reference_sae_]
    np.testing.assert_array_equal(atoms, sae.components_)
    np.testing.assert_array_equal(arrays["trusted_"], sae.trusted_)


def test_saving_needs_a_fitted_sae(path):
    sae = MFRSparseAutoencoder()
    with pytest.raises(NotFittedError):
        save(sae, path)
    with pytest.raises(TypeError, match="is of type Pipeline"):
        save(make_pipeline(sae), path)

    class Other(MFRSparseAutoencoder):
        pass

    with pytest.raises(TypeError, match="is of type Other"):
        save(Other(), path)
    with pytest.raises(ValueError, match="'k' parameter"):
        save(fitted().set_params(k=0), path)
    assert not path.exists()


def test_missing_package_is_named(path, monkeypatch):
    sae = fitted()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install \"skmfr\[io\]\""):
        save(sae, path)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file_and_no_other(path, monkeypatch, error):
    sae = fitted()
    save(sae, path)
    before = path.read_bytes()

    def half_written(arrays, file, metadata):
        file.write_bytes(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(stored, "save_file", half_written)
    with pytest.raises(type(error)):
        save(sae.partial_fit(samples()), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_saving_again_replaces_the_file(path):
    sae = fitted()
    save(sae, path)
    assert saved_and_loaded(sae.partial_fit(samples()), path).n_steps_ == sae.n_steps_
    assert list(path.parent.iterdir()) == [path]


def test_file_of_version_1_loads():
    sae = load(VERSION_1)
    X = pd.DataFrame(samples(dtype=np.float32), columns=list("abcdef"))
    # As it was when the file was written.
    assert sae.score(X) == pytest.approx(0.892136, abs=1e-5)
    assert sae.get_params()["n_components"] == 12
    assert sae.warm_start
    assert sae.n_steps_ == len(sae.loss_curve_) == 60
    assert sae.dictionaries_.shape == (3, 12, 6)
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-6)
    assert sae.partial_fit(X).n_steps_ == 61


def test_file_of_version_2_loads():
    sae = load(VERSION_2)
    # As the estimator was that wrote the file, and went on from there.
    assert sae.score(samples()) == pytest.approx(0.493466, abs=1e-6)
    assert sae.partial_fit(samples()).score(samples()) > 0.4935


def test_file_of_version_3_loads_and_keeps_its_centre_and_scale():
    sae, X = load(VERSION_3), samples()
    assert sae.score(X) == pytest.approx(0.892139, abs=1e-6)
    assert np.isnan(sae.median_norm_)
    # What was the default is the default.
    assert sae.max_iter is None
    sae.partial_fit(X[:50] + 100)
    np.testing.assert_allclose(sae._training["mean"], X.mean(0), atol=1e-12)
    np.testing.assert_allclose(sae._training["variance"], X.var(0))
    assert sae.fit(X).n_steps_ == 121


def test_file_of_a_build_without_parts_of_rows_loads(path):
    sae = fitted()
    del sae._training["disjoint"], sae._training["along"]
    del sae.__dict__["reappearance_"]
    loaded = saved_and_loaded(sae, path)
    assert not {"disjoint", "along"} & loaded._training.keys()
    assert np.isfinite(loaded.reappearance_).all()
    assert not loaded.partial_fit(samples())._training["disjoint"]


def weights_of(sae):
    """Arrays that `transform` needs."""
    weights = [sae.components_, sae.encoder_bias_, sae.decoder_bias_]
    return weights if sae.tied else [*weights, sae.encoder_weights_]


@pytest.mark.parametrize("rows", ["same", "disjoint"])
def test_file_without_other_saes_keeps_what_they_found(path, rows):
    X = np.random.default_rng(0).standard_normal((500, 16))
    sae = fitted(X, n_components=32, max_steps=40, n_witnesses=2, witness_rows=rows)
    save(sae, path, training_state=False)
    loaded = load(path)
    assert loaded.witness_rows_ == rows
    for scorer in (reappearance_scorer, agreement_scorer):
        assert scorer(loaded, X) == scorer(sae, X)
    with pytest.warns(UserWarning, match="saved without the other SAEs"):
        assert np.isnan(reappearance(loaded)[0]).all()


@pytest.mark.parametrize("tied", [False, True])
def test_file_without_state_of_training_is_hardly_larger_than_weights(path, tied):
    X = np.random.default_rng(0).standard_normal((500, 64))
    sae = fitted(X, n_components=256, max_steps=40, tied=tied, n_witnesses=2)
    save(sae, path, training_state=False)
    assert path.stat().st_size < 1.1 * sum(each.nbytes for each in weights_of(sae))
    loaded = load(path)
    for algorithm in ("encoder", "lstsq", "omp"):
        codes, expected = (
            each.set_params(transform_algorithm=algorithm).transform(X[:50])
            for each in (loaded, sae)
        )
        np.testing.assert_array_equal(codes, expected)
    for name in ("feature_agreement_", "trusted_", "n_steps_", "components_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(sae, name))
    # It can be saved again, trained anew, and trained on from its weights.
    assert_equal(saved_and_loaded(loaded, path), loaded)
    again = load(path).set_params(batch_size=500).partial_fit(X)
    assert again.n_steps_ == 1
    assert again.dictionaries_.shape == (3, 256, 64)
    assert again.witness_dictionaries_.shape == (2, 256, 64)
    near = np.sum(again.dictionaries_[0] * sae.components_, axis=1)
    assert near.min() > 0.999
    assert loaded.fit(X).n_steps_ == 40


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_follows_a_partial_fit_is_the_same_from_a_file(path, dtype):
    sae = fitted(samples(dtype=dtype)).partial_fit(samples(dtype=dtype, seed=1))
    loaded = saved_and_loaded(sae, path)
    assert_equal(loaded, sae)
    assert type(loaded.median_norm_) is float
    for each in (loaded, sae):
        each.partial_fit(samples(dtype=dtype, seed=2))
    assert_equal(saved_and_loaded(loaded, path), saved_and_loaded(sae, path))


def test_weights_that_a_user_assigns_come_back(path):
    sae = fitted()
    sae.components_ = sae.components_[::-1].copy()
    sae.encoder_weights_ = sae.encoder_weights_ + 1
    assert_equal(saved_and_loaded(sae, path), sae)


# Files that are not as they were written.


def parts(content):
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(header, data, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "sae.safetensors"
    save(fitted(warm_start=True), path)
    return path.read_bytes()


def refused(path, content, match=None):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as raised:
        load(path)
    assert str(path) in str(raised.value)


def test_damaged_file_is_refused_or_as_it_was(path, content, count_refused):
    path.write_bytes(content)
    header = slice(0, 8 + struct.unpack("<Q", content[:8])[0])
    # Not digits and bytes that are replaced by themselves, and spaces of the header.
    assert count_refused(path, lambda: load(path), assert_equal, header) > 0.85


def test_truncated_file_is_refused(path, content):
    for length in [0, 1, 7, 8, 9, *range(100, len(content), 1009), len(content) - 1]:
        refused(path, content[:length], "not a complete safetensors file")


def test_flipped_bit_in_an_array_is_refused(path, content):
    for place in range(1, 2000, 97):
        damaged = bytearray(content)
        damaged[-place] ^= 1 << place % 8
        refused(path, damaged, "it is damaged")


@pytest.mark.parametrize(
    "length", [0, 1, 2**20, 99_999_999, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
)
def test_header_of_another_length_is_refused(path, content, length):
    refused(path, whole(*parts(content), length=length), "not a complete safetensors")


def test_files_of_other_kinds_are_refused(path):
    class Harmful:
        def __reduce__(self):
            return (path.with_name("was run").touch, ())

    refused(path, pickle.dumps(Harmful()), "not a complete safetensors file")
    refused(path, b"", "not a complete safetensors file")
    stored.save_file({"weight": np.zeros(3)}, path)
    refused(path, path.read_bytes(), "not written by skmfr.io.save")
    stored.save_file({"weight": np.zeros(3)}, path, {"skmfr": "[" * 10**6})
    refused(path, path.read_bytes(), "cannot be loaded")
    assert list(path.parent.iterdir()) == [path]


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(OSError, match=tmp_path.name):
        load(tmp_path)


# Files that were written on purpose: their digests fit.


def sealed(arrays, description):
    """A file of some content, with the digest that belongs to it."""
    text = json.dumps(description)
    digest = sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    metadata = {"skmfr": text, "sha256": digest.hexdigest()}
    return stored.save(arrays, metadata)


@pytest.fixture
def opened(content):
    description = json.loads(parts(content)[0]["__metadata__"]["skmfr"])
    return stored.load(content), description


def test_digest_of_these_tests_is_that_of_the_format(path, content, opened):
    path.write_bytes(content)
    expected = load(path)
    path.write_bytes(sealed(*opened))
    assert_equal(load(path), expected)


def test_later_version_is_refused(path, opened):
    arrays, description = opened
    description |= {"format_version": 6, "skmfr_version": "9.9"}
    match = "version 6 .* skmfr 9.9; .* up to 5: update skmfr"
    refused(path, sealed(arrays, description), match)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("parameters", "k", "8"),
        ("parameters", "k", 0),
        ("parameters", "matching", ["max"]),
        ("parameters", "callback", "print"),
        ("parameters", "no_such_parameter", 1),
        ("parameters", "_training", {}),
        ("attributes", "reference_sae_", 3),
        ("attributes", "reference_sae_", -1),
        ("attributes", "reference_sae_", True),
        ("attributes", "agreement_null_", float("nan")),
        ("attributes", "n_iter_", -1),
        ("attributes", "n_steps_", 1.5),
        ("attributes", "feature_names_in_", ["a"]),
        ("attributes", "feature_names_in_", list(range(6))),
        ("attributes", "set_output", {"a": 1}),
    ],
)
def test_impossible_values_are_refused(path, opened, part, name, value):
    arrays, description = opened
    description[part][name] = value
    refused(path, sealed(arrays, description), name)


@pytest.mark.parametrize("part", ["parameters", "attributes", "format_version"])
def test_incomplete_description_is_refused(path, opened, part):
    arrays, description = opened
    del description[part]
    refused(path, sealed(arrays, description))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("components_", np.zeros((6, 12))),
        ("encoder_bias_", np.zeros((12, 1))),
        ("encoder_bias_", np.zeros(13)),
        ("loss_curve_", np.zeros(60, dtype=int)),
        ("trusted_", np.zeros(12)),
        ("training losses", np.zeros((4, 60))),
        ("training idle", np.zeros((4, 12))),
        ("training adam 2 exp_avg", np.zeros((6, 12))),
        ("training matches 0 1", np.zeros((3, 2), dtype=int)),
        ("training seed", np.array(2**40)),
        ("training scale", np.array(0.0)),
        ("training scale", np.array(np.nan)),
        ("dictionaries_", np.zeros((0, 12, 6))),
        ("dictionaries_", np.zeros((2, 12, 6))),
        ("dictionaries_", np.zeros((3, 12, 6), dtype=np.float16)),
        ("another", np.zeros(1)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path, opened, name, array):
    arrays, description = opened
    refused(path, sealed(arrays | {name: array}, description))


@pytest.mark.parametrize(
    "name",
    ["dictionaries_", "training step", "training adam 1 step", "training mean"],
)
def test_missing_arrays_are_named(path, opened, name):
    arrays, description = opened
    del arrays[name]
    refused(path, sealed(arrays, description), f"lacks {name}")


def test_saes_that_training_does_not_know_are_refused(path, opened):
    arrays, description = opened
    arrays["witness_dictionaries_"] = np.zeros((2, 12, 6))
    refused(
        path,
        sealed(arrays, description),
        "3 SAEs and 2 witnesses.* training state has 4",
    )


def test_number_types_that_numpy_lacks_are_refused(path, content):
    header, data = parts(content)
    header["encoder_bias_"] |= {"dtype": "BF16", "shape": [48]}
    refused(path, whole(header, data), "encoder_bias_ is BF16")
