"""Signs of failure at their levels, duplicates by brute force."""

import numpy as np
import pytest

from skmfr._training.diagnostics import failure_signs, share_of_duplicates

HEALTHY = {
    "alpha": 0.1,
    "group_fvu": 0.2,
    "witness_fvu": 0.2,
    "mutual_agreement": 0.7,
    "duplicate_share": 0.0,
    "null_agreement": 0.3,
    "n_reinits": 0,
    "max_reinits": 3,
}
POOR = {"group_fvu": 0.6, "witness_fvu": 0.6, "mutual_agreement": 0.95}


def unit_atoms(*shape):
    atoms = np.random.default_rng(0).standard_normal(shape)
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"group_fvu": 0.6, "witness_fvu": 0.6},  # poor, but the SAEs say so
        {"mutual_agreement": 0.95},  # agreement with reconstruction
        POOR | {"null_agreement": 0.95},  # agreement by chance
        POOR | {"mutual_agreement": np.nan},  # one SAE
        {"duplicate_share": 0.05},
        {"duplicate_share": 0.9, "null_agreement": 0.95},
        {"group_fvu": 0.21},  # 5 % dearer
        {"group_fvu": 0.015, "witness_fvu": 0.01},  # 50 % dearer, of nothing
        {"group_fvu": 0.3, "alpha": 0.0},  # no penalty to blame
        {"witness_fvu": np.nan},  # no witness
        {"n_reinits": 2},
    ],
)
def test_no_sign_where_nothing_is_wrong(changes):
    assert failure_signs(**(HEALTHY | changes)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (POOR, ["reconstruct poorly", "0.95", "0.60", "Lower alpha=0.1"]),
        ({"duplicate_share": 0.25}, ["25%", "near copy", "n_components"]),
        ({"group_fvu": 0.3}, ["penalty costs", "0.3", "0.2", "Lower alpha"]),
        ({"n_reinits": 3}, ["unstable", "3 times", "reinit_threshold"]),
    ],
)
def test_each_fault_gives_its_own_sign_and_remedy(changes, words):
    (sign,) = failure_signs(**(HEALTHY | changes))
    for word in words:
        assert word in sign


def test_several_faults_give_several_signs():
    faults = POOR | {"witness_fvu": 0.3, "duplicate_share": 0.5, "n_reinits": 3}
    assert len(failure_signs(**(HEALTHY | faults))) == 4


@pytest.mark.parametrize("changes", [POOR, {"duplicate_share": 0.25}])
def test_no_sign_asks_to_lower_an_alpha_of_zero(changes):
    (sign,) = failure_signs(**(HEALTHY | changes | {"alpha": 0.0}))
    assert "alpha=0" not in sign


def test_share_of_duplicates_equals_brute_force():
    atoms = unit_atoms(60, 5)
    atoms[10] = atoms[3]
    atoms[20] = atoms[21] = atoms[22]
    atoms[30] = -atoms[31]  # the opposite is another feature
    atoms[40] = atoms[41] + 0.05 * unit_atoms(1, 5)[0]
    atoms[40] /= np.linalg.norm(atoms[40])
    expected = np.mean(
        [
            any(a @ b > 0.99 for j, b in enumerate(atoms) if i != j)
            for i, a in enumerate(atoms)
        ]
    )
    assert expected >= 7 / 60
    assert share_of_duplicates(atoms) == pytest.approx(expected)


def test_share_of_duplicates_in_several_blocks():
    # More than 2^12 atoms are compared block by block; random ones are no copies.
    atoms = unit_atoms(6000, 32).astype(np.float32)
    atoms[5999] = atoms[0]
    assert share_of_duplicates(atoms) == pytest.approx(2 / 6000)


def test_single_atom_has_no_duplicate():
    assert share_of_duplicates(unit_atoms(1, 3)) == 0
