"""Files of other packages that are not as they were written, or were meant to harm."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from layouts import LAYOUTS

from skmfr.io import (
    from_dictionary_learning,
    from_sae_lens,
    from_sparsify,
    to_sae_lens,
)
from skmfr.io._opening import open_sae

FILES = {
    "jumprelu": ("sae_weights.safetensors", "cfg.json"),
    "gated": ("sae_weights.safetensors", "cfg.json"),
    "Gemma Scope": ("params.npz",),
    "sparsify of different norms": ("sae.safetensors", "cfg.json"),
    "BatchTopKSAE": ("ae.pt", "config.json"),
    "GatedAutoEncoder": ("ae.pt",),
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [(each, name) for each, names in FILES.items() for name in names],
)
def test_damaged_files_are_refused_or_read_as_an_sae(
    tmp_path, layout, name, count_refused
):
    # Nothing tells what the numbers were: they may differ, if they are numbers.
    LAYOUTS[layout](tmp_path, np.random.default_rng(1))
    X = np.random.default_rng(0).standard_normal((4, 8))
    path = tmp_path / name

    def assert_sae(loaded, expected):
        assert loaded.components_.shape == expected.components_.shape
        assert loaded.transform(X).shape == (4, 24)

    def load():
        try:
            return open_sae(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
            raise ValueError(name) from error

    # What is imported when it is first needed takes memory, too.
    assert_sae(load(), load())
    fragile = slice(0, min(path.stat().st_size, 600))
    n_damaged = int(os.environ.get("SKMFR_N_DAMAGED", 60))
    assert count_refused(path, load, assert_sae, fragile, n_damaged) > 0.2
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        {*FILES[layout], *(["config.json"] if layout == "GatedAutoEncoder" else [])}
    )


def test_damaged_agreement_is_refused_or_read(tmp_path, count_refused):
    LAYOUTS["jumprelu"](tmp_path, np.random.default_rng(1))
    sae = open_sae(tmp_path)
    sae.feature_agreement_ = np.linspace(0, 1, 24, dtype=np.float32)
    to_sae_lens(sae, tmp_path)
    path = tmp_path / "agreement.safetensors"

    def assert_cosines(loaded, expected):
        assert loaded.feature_agreement_.shape == (24,)
        assert np.abs(loaded.feature_agreement_).max() <= 1.001
        assert loaded.trusted_.dtype == bool

    def load():
        try:
            return open_sae(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
            raise ValueError(path.name) from error

    header = slice(0, 8 + int.from_bytes(path.read_bytes()[:8], "little"))
    assert count_refused(path, load, assert_cosines, header, 60) > 0.2


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_pickles_run_nothing(tmp_path):
    harm = tmp_path / "was run"
    for written in (
        pickle.dumps(Harmful(harm)),
        pickle.dumps({"encoder.weight": Harmful(harm)}),
    ):
        (tmp_path / "ae.pt").write_bytes(written)
        with pytest.raises(ValueError, match=r"ae\.pt is incomplete"):
            from_dictionary_learning(tmp_path)
    torch.save({"encoder.weight": Harmful(harm)}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt is incomplete"):
        from_dictionary_learning(tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([Harmful(harm)], dtype=object))
    with pytest.raises(ValueError, match="W_enc is object|lacks"):
        from_sae_lens(tmp_path / "params.npz")
    assert not harm.exists()


def test_formats_of_torch_before_zip_archives_are_not_read(tmp_path):
    LAYOUTS["AutoEncoder"](tmp_path, np.random.default_rng(0))
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save(state, tmp_path / "ae.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"ae\.pt is incomplete"):
        from_dictionary_learning(tmp_path)


def test_what_is_larger_than_its_bytes_is_never_made(tmp_path):
    # One number, said to be 2^40 of them.
    state = {
        "encoder.weight": torch.zeros(1).expand(2**20, 2**20),
        "encoder.bias": torch.zeros(1).expand(2**20),
        "decoder.weight": torch.zeros(1).expand(2**20, 2**20),
        "bias": torch.zeros(1).expand(2**20),
    }
    torch.save(state, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="more bytes than it has"):
        from_dictionary_learning(tmp_path)

    empty = {name: tensor.to("meta") for name, tensor in state.items()}
    torch.save(empty, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt.* meta device"):
        from_dictionary_learning(tmp_path)

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)}
    )
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue())
    with pytest.raises(ValueError, match="more bytes than it has"):
        from_sae_lens(tmp_path / "params.npz")


def test_compressed_archives_are_not_read(tmp_path):
    LAYOUTS["Gemma Scope"](tmp_path, np.random.default_rng(0))
    arrays = dict(np.load(tmp_path / "params.npz"))
    np.savez_compressed(tmp_path / "params.npz", **arrays)
    with pytest.raises(ValueError, match="it is compressed"):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("transcode", "is a transcoder"),
        ("skip_connection", "is an SAE with a skip connection"),
    ],
)
def test_sparsify_s_other_kinds_are_refused_by_name(tmp_path, name, what):
    LAYOUTS["sparsify of different norms"](tmp_path, np.random.default_rng(0))
    config = (tmp_path / "cfg.json").read_text()
    (tmp_path / "cfg.json").write_text(config[:-1] + f', "{name}": true}}')
    with pytest.raises(ValueError, match=f"{name}=True: it {what}"):
        from_sparsify(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": np.zeros(23, np.float32)}, r"threshold is F32 of shape \(23\)"),
        ({"threshold": np.full(24, np.nan, np.float32)}, "threshold has numbers that"),
        ({"more": np.zeros(3, np.float32)}, "unexpected arrays: more"),
        ({"W_enc": np.zeros((8, 24), int)}, "W_enc is I64"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changes, message):
    LAYOUTS["Gemma Scope"](tmp_path, np.random.default_rng(0))
    arrays = dict(np.load(tmp_path / "params.npz")) | changes
    np.savez(tmp_path / "params.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        from_sae_lens(tmp_path)


def test_magnitudes_that_are_not_finite_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    LAYOUTS["gated"](tmp_path, np.random.default_rng(0))
    path = tmp_path / "sae_weights.safetensors"
    arrays = load_file(path)
    save_file(arrays | {"r_mag": np.full(24, 1e3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"exp\(r_mag\) has numbers that are not fin"):
        from_sae_lens(tmp_path)
