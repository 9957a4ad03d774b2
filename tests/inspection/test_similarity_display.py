"""Matrices of cosines, against SciPy's matching and all cosines at once."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from skmfr.agreement import matched_cosine
from skmfr.inspection import SimilarityDisplay, _similarity
from skmfr.inspection._similarity import _in_order_of_matching


def unit_atoms(seed, n=20, d=12):
    atoms = np.random.default_rng(seed).standard_normal((n, d))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def test_all_dictionaries_are_compared_pair_by_pair(sae):
    display = SimilarityDisplay.from_estimator(sae)
    members = [*sae.dictionaries_, *sae.witness_dictionaries_]
    expected = [[matched_cosine(one, other) for other in members] for one in members]
    np.testing.assert_allclose(display.im_.get_array(), expected, atol=1e-6)
    assert display.labels == ["SAE 0", "SAE 1", "witness 0"]
    shown = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert shown == display.labels
    assert display.text_[0, 2].get_text() == f"{expected[0][2]:.2f}"


def test_numbers_are_told_from_their_ground():
    atoms = unit_atoms(0)
    display = SimilarityDisplay.from_dictionaries([atoms, -atoms], labels="ab")
    assert display.text_[0, 0].get_color() == "white"
    assert display.text_[0, 1].get_color() == "black"


def test_matched_atoms_are_on_the_diagonal_the_most_alike_first(sae):
    display = SimilarityDisplay.from_estimator(sae, pair=(1, 2))
    cosines = sae.dictionaries_[1] @ sae.witness_dictionaries_[0].T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    order = np.argsort(-cosines[rows, columns])
    expected = cosines[rows[order]][:, columns[order]]
    np.testing.assert_allclose(display.im_.get_array(), expected, atol=1e-12)
    np.testing.assert_allclose(display.matched_cosine, np.diag(expected))
    assert (np.diff(display.matched_cosine) <= 0).all()
    assert display.ax_.get_xlabel() == "Matched atoms of witness 0"
    assert display.text_ is None


def test_a_shuffled_copy_is_a_diagonal():
    atoms = unit_atoms(0)
    order = np.random.default_rng(1).permutation(len(atoms))
    display = SimilarityDisplay.from_dictionaries(
        [atoms, 3 * atoms[order]], pair=(0, 1)
    )
    np.testing.assert_allclose(np.diag(display.similarity), 1)
    assert display.ax_.get_title() == "Mean matched cosine 1.000"


@pytest.mark.parametrize("n", [16, 18])
def test_many_atoms_are_drawn_in_blocks(monkeypatch, n):
    atoms, others = unit_atoms(0, n), unit_atoms(1, n)
    full = _in_order_of_matching(atoms, others)
    assert full.block_size == 1
    monkeypatch.setattr(_similarity, "MAX_PIXELS", 5)
    display = SimilarityDisplay.from_dictionaries([atoms, others], pair=(0, 1))
    padded = np.full((20, 20), -np.inf)
    padded[:n, :n] = full.blocks
    expected = padded.reshape(5, 4, 5, 4).max(axis=(1, 3))
    expected = expected[np.isfinite(expected).any(1)][:, np.isfinite(expected).any(0)]
    np.testing.assert_allclose(display.im_.get_array(), expected)
    assert display.block_size == 4
    # Axes count atoms all the same.
    assert display.ax_.get_xlim() == (0, n)
    assert list(display.im_.get_extent()[:2]) == [0, 4 * len(expected)]


def test_image_of_sixteen_thousand_atoms_is_small(monkeypatch):
    # The matching, which takes minutes, is tested elsewhere.
    n = 16384
    monkeypatch.setattr(
        _similarity, "matched_cosines", lambda one, other: (np.ones(n), np.arange(n))
    )
    atoms = unit_atoms(0, n, 2).astype(np.float32)
    matched = _in_order_of_matching(atoms, atoms)
    assert matched.blocks.shape == (256, 256)
    assert matched.block_size == 64
    np.testing.assert_allclose(np.diag(matched.blocks), 1, atol=1e-6)


def test_colours_and_bar_are_as_asked(sae):
    display = SimilarityDisplay.from_estimator(
        sae, colorbar=False, im_kwargs={"cmap": "viridis", "vmin": 0.5}
    )
    assert display.figure_.axes == [display.ax_]
    assert display.im_.get_cmap().name == "viridis"
    assert display.im_.get_clim() == (0.5, 1)


def test_what_cannot_be_compared_is_named(sae, alone):
    with pytest.raises(ValueError, match="at least 2 dictionaries, got 1"):
        SimilarityDisplay.from_estimator(alone)
    for pair in [(0, 3), (0,), (-1, 0), (0, 1, 2)]:
        with pytest.raises(ValueError, match=r"from 0 to 2 \(SAE 0 to witness 0\)"):
            SimilarityDisplay.from_estimator(sae, pair=pair)
    compare = SimilarityDisplay.from_dictionaries
    with pytest.raises(ValueError, match=r"dictionaries\[1\] has 10 atoms"):
        compare([unit_atoms(0), unit_atoms(0, 10)])
    with pytest.raises(ValueError, match="3 labels for 2 dictionaries"):
        compare([unit_atoms(0)] * 2, labels=["a", "b", "c"])
