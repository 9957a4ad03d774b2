"""Atoms and their matches as they are drawn, against the dictionaries."""

import sys
from copy import copy

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, atom_waveforms
from skmfr.eeg._artifacts import leading_vectors
from skmfr.inspection import DictionaryDisplay


def cosines_with(atoms, others):
    return atoms @ others.T


def test_columns_are_atoms_and_the_nearest_to_them(sae):
    display = DictionaryDisplay.from_estimator(sae, atoms=4, image_shape=(3, 4))
    order = np.argsort(-sae.feature_agreement_, kind="stable")
    # Evenly spread over the ranks of 20 atoms.
    shown = order[[0, 6, 13, 19]]
    assert display.atoms.tolist() == shown.tolist()
    reference = sae.components_[shown]
    other = sae.dictionaries_[1 - sae.reference_sae_]
    witness = sae.witness_dictionaries_[0]
    assert display.axes_.shape == (3, 4)
    for row, dictionary in enumerate([sae.components_, other, witness]):
        cosines = cosines_with(reference, dictionary)
        nearest = dictionary[cosines.argmax(axis=1)]
        for column, atom in enumerate(nearest):
            image = display.images_[row, column].get_array()
            np.testing.assert_array_equal(image, atom.reshape(3, 4))
            if row:
                title = display.axes_[row, column].get_title()
                assert title == f"cosine {cosines[column].max():.2f}"


def test_atoms_are_named_with_their_agreement(sae):
    display = DictionaryDisplay.from_estimator(sae, atoms=[7, 3])
    a, b = sorted([3, 7], key=lambda atom: -sae.feature_agreement_[atom])
    assert [axis.get_title() for axis in display.axes_[0]] == [
        f"atom {atom}\nagreement {sae.feature_agreement_[atom]:.2f}" for atom in (a, b)
    ]
    reference = sae.reference_sae_
    assert [axis.get_ylabel() for axis in display.axes_[:, 0]] == [
        f"SAE {reference}\n(reference)", f"SAE {1 - reference}", "witness 0"
    ]  # fmt: skip


def test_images_share_a_scale_that_is_even_around_zero(sae):
    display = DictionaryDisplay.from_estimator(sae, image_shape=(3, 4))
    limits = {image.get_clim() for image in display.images_.flat}
    ((low, high),) = limits
    assert low == -high
    assert np.mean(np.abs(display.matches) <= high) == pytest.approx(0.99, abs=0.01)
    bar = display.figure_.axes[-1]
    assert bar.get_ylabel() == "Weight in the atom"


def test_curves_are_the_channels_over_time(sae):
    display = DictionaryDisplay.from_estimator(sae, atoms=2, n_channels=3, sfreq=100)
    lines = display.images_[1, 0]
    curves = display.matches[1, 0].reshape(3, 4)
    np.testing.assert_array_equal([line.get_ydata() for line in lines], curves)
    np.testing.assert_allclose(lines[0].get_xdata(), [0, 0.01, 0.02, 0.03])
    assert display.axes_[-1, 0].get_xlabel() == "Time (s)"


def test_colour_images_have_no_colour_bar():
    rng = np.random.default_rng(0)
    dictionaries = rng.standard_normal((2, 6, 12))
    display = DictionaryDisplay.from_dictionaries(dictionaries, image_shape=(2, 2, 3))
    assert display.images_[0, 0].get_array().shape == (2, 2, 3)
    assert len(display.figure_.axes) == 1 + 12


def test_dictionaries_of_any_origin_can_be_shown():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((5, 12)), rng.standard_normal((8, 12))
    display = DictionaryDisplay.from_dictionaries(
        [3 * one, other], labels=["ours", "theirs"], atoms=3
    )
    unit = one / np.linalg.norm(one, axis=1, keepdims=True)
    cosines = unit @ (other / np.linalg.norm(other, axis=1, keepdims=True)).T
    np.testing.assert_allclose(display.agreement, cosines.max(1)[display.atoms])
    np.testing.assert_allclose(display.matches[0], unit[display.atoms])
    assert display.labels == ["ours", "theirs"]


def test_one_sae_alone_is_shown_without_agreement(alone):
    display = DictionaryDisplay.from_estimator(alone, atoms=3)
    assert display.axes_.shape == (1, 3)
    assert [axis.get_title() for axis in display.axes_[0]] == [
        f"atom {atom}" for atom in display.atoms
    ]


def test_what_cannot_be_drawn_is_named(sae):
    from_estimator = DictionaryDisplay.from_estimator
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8\) has 64"):
        from_estimator(sae, image_shape=(8, 8))
    with pytest.raises(ValueError, match="n_channels=5 does not divide"):
        from_estimator(sae, n_channels=5)
    with pytest.raises(ValueError, match="atoms must be from 0 to 19"):
        from_estimator(sae, atoms=[20])
    from_dictionaries = DictionaryDisplay.from_dictionaries
    with pytest.raises(ValueError, match="dictionaries is empty"):
        from_dictionaries([])
    with pytest.raises(ValueError, match=r"dictionaries\[1\] has 2 features"):
        from_dictionaries([np.eye(3), np.eye(2)])
    with pytest.raises(ValueError, match="1 labels for 2"):
        from_dictionaries([np.eye(3), np.eye(3)], labels=["a"])


# Maps of the head


NAMES = ["Fp1", "Fp2", "Cz", "Oz"]


@pytest.fixture(scope="module")
def info():
    mne = pytest.importorskip("mne")
    info = mne.create_info(NAMES, 100, "eeg")
    return info.set_montage("easycap-M1")


@pytest.fixture(scope="module")
def maps(info):
    """What is handed to MNE, instead of what it draws."""
    mne = pytest.importorskip("mne")
    drawn, plot = [], mne.viz.plot_topomap

    def plot_topomap(data, pos, **options):
        drawn.append(np.array(data))
        return plot(data, pos, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mne.viz, "plot_topomap", plot_topomap)
        yield drawn


def test_atoms_over_channels_are_maps(info, maps):
    maps.clear()
    atoms = np.array([[1.0, 1, 0, -1], [-1, 0, 0, 0.5]])
    display = DictionaryDisplay.from_dictionaries([atoms, atoms[::-1]], info=info)
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    np.testing.assert_allclose(maps, [*unit, *unit])
    limits = {image.get_clim() for image in display.images_.flat}
    assert limits == {(-np.abs(unit).max(), np.abs(unit).max())}
    assert display.figure_.axes[-1].get_ylabel() == "Weight in the topography"


def test_atoms_over_channels_and_times_are_maps_of_the_nearest_topography(info, maps):
    maps.clear()
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((3, 4 * 5))
    display = DictionaryDisplay.from_dictionaries([atoms], info=info, atoms=[0, 1, 2])
    expected, _ = leading_vectors(atoms.reshape(3, 4, 5))
    np.testing.assert_allclose(maps, expected[display.atoms], atol=1e-12)


def test_maps_of_matched_atoms_have_the_same_sign(info, maps):
    maps.clear()
    # The largest weight of each is another, and by itself would be positive in both.
    one = np.outer([1.0, 0, 0, -0.99], [1, 2, 1])
    other = np.outer([0.99, 0, 0, -1.0], [1, 2, 1])
    DictionaryDisplay.from_dictionaries([[one.ravel()], [other.ravel()]], info=info)
    assert np.dot(*maps) > 0.99


def test_denoisers_show_signals_of_all_channels(info):
    X = np.random.default_rng(0).standard_normal((20, 4, 100))
    usual = {"n_saes": 2, "n_witnesses": 1, "max_steps": 20, "random_state": 0}
    sae = MFRSparseAutoencoder(8, k=2, **usual)
    denoiser = EEGDenoiser(window=0.5, sfreq=100, sae=sae).fit(X)
    display = DictionaryDisplay.from_estimator(denoiser, atoms=3)
    waveforms = atom_waveforms(denoiser)[display.atoms]
    drawn = [[line.get_ydata() for line in lines] for lines in display.images_[0]]
    # Atoms are float32.
    np.testing.assert_allclose(drawn, waveforms, atol=1e-6)
    maps = DictionaryDisplay.from_estimator(denoiser, atoms=3, info=info)
    assert maps.figure_.axes[-1].get_ylabel() == "Weight in the topography"

    # As after a fit with clean signals, which takes long.
    supervised = copy(denoiser)
    supervised.filters_ = None
    with pytest.raises(ValueError, match="DictionaryDisplay needs .* without y"):
        DictionaryDisplay.from_estimator(supervised)


def test_maps_that_cannot_be_drawn_are_named(sae, info, monkeypatch):
    mne = sys.modules["mne"]
    from_estimator = DictionaryDisplay.from_estimator
    with pytest.raises(ValueError, match="image_shape to draw images, or info"):
        from_estimator(sae, info=info, image_shape=(3, 4))
    with pytest.raises(ValueError, match="info has 5 channels"):
        from_estimator(sae, info=mne.create_info(5, 100, "eeg"))
    with pytest.raises(ValueError, match="Set a montage"):
        from_estimator(sae, info=mne.create_info(NAMES, 100, "eeg"))
    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(ImportError, match=r"skmfr\[eeg\]"):
        from_estimator(sae, info=info)
