"""What is drawn of agreement and usage, against the arrays that it stands for."""

from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.agreement import compare, feature_agreement, random_agreement
from skmfr.inspection import FeatureAgreementDisplay, report
from skmfr.io import from_sae_lens, to_sae_lens
from skmfr.io._weights import estimator_with, weights_of


def points(scatter) -> set[tuple[float, float]]:
    return set(map(tuple, np.asarray(scatter.get_offsets()).tolist()))


def test_each_atom_is_at_its_usage_and_agreement(sae, X):
    sae = deepcopy(sae)
    sae.feature_agreement_ = np.linspace(0, 1, len(sae.trusted_))
    level = sae.agreement_null_ + 0.75 * (1 - sae.agreement_null_)
    trusted = sae.trusted_ = sae.feature_agreement_ > level
    display = FeatureAgreementDisplay.from_estimator(sae, X)
    usage = (sae.transform(X) != 0).mean(axis=0)
    expected = np.column_stack([usage, sae.feature_agreement_])
    assert points(display.trusted_scatter_) == set(map(tuple, expected[trusted]))
    assert points(display.untrusted_scatter_) == set(map(tuple, expected[~trusted]))
    assert display.figure_ is display.ax_.figure


def test_atoms_of_an_estimator_are_trusted_by_its_rule_and_others_by_a_threshold(
    sae, X
):
    null = random_agreement(12, 20)
    sae = deepcopy(sae)
    sae.trusted_ = np.arange(20) % 3 == 0
    display = FeatureAgreementDisplay.from_estimator(sae, X)
    assert set(display.null_line_.get_ydata()) == {null}
    assert len(display.trusted_scatter_.get_offsets()) == 7
    assert display.threshold_line_ is None
    display = FeatureAgreementDisplay.from_dictionaries(
        sae.components_, [sae.witness_dictionaries_[0]], sae.transform(X)
    )
    assert set(display.threshold_line_.get_ydata()) == {null + 0.75 * (1 - null)}
    n_above = (display.agreement > display.threshold).sum()
    assert len(display.trusted_scatter_.get_offsets()) == n_above


def test_atoms_that_are_never_active_are_shown_at_zero(sae, X):
    display = FeatureAgreementDisplay.from_estimator(sae, X[:1])
    shown = points(display.untrusted_scatter_) | points(display.trusted_scatter_)
    assert len(shown) == 20
    assert sum(usage == 0 for usage, _ in shown) >= 17
    # Inside the axes, by more than its marker.
    left, _ = display.ax_.get_xlim()
    assert left < 0
    # A data set in which nothing is active has no scale but can be shown.
    display.usage = np.zeros(20)
    assert np.isfinite(display.plot().ax_.get_xlim()).all()


def test_given_axes_and_styles_are_used(sae, X):
    _, ax = plt.subplots()
    display = FeatureAgreementDisplay.from_estimator(
        sae, X, ax=ax, scatter_kwargs={"s": 50}, line_kwargs={"linewidth": 3}
    )
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert display.trusted_scatter_.get_sizes().tolist() == [50]
    assert display.null_line_.get_linewidth() == 3
    again = display.plot()
    assert again is display
    assert display.ax_ is not ax


def test_pipelines_use_what_reaches_the_sae(X):
    sae = MFRSparseAutoencoder(
        n_components=20, k=3, n_saes=1, max_steps=10, random_state=0
    )
    pipeline = make_pipeline(StandardScaler(), sae).fit(X)
    display = FeatureAgreementDisplay.from_estimator(pipeline, X)
    usage = (pipeline.transform(X) != 0).mean(axis=0)
    np.testing.assert_array_equal(display.usage, usage)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_dictionaries_of_any_origin_can_be_shown(container):
    rng = np.random.default_rng(0)
    atoms, *others = rng.standard_normal((3, 10, 6))
    codes = rng.random((50, 10)) * (rng.random((50, 10)) < 0.3)
    display = FeatureAgreementDisplay.from_dictionaries(atoms, others, container(codes))
    np.testing.assert_allclose(display.agreement, feature_agreement(atoms, others))
    np.testing.assert_allclose(display.usage, (codes != 0).mean(axis=0))
    assert display.null == pytest.approx(random_agreement(6, 10))


@pytest.mark.parametrize(
    ("n_witnesses", "alpha", "label"),
    [(2, 0.1, "2 witnesses"), (0, 0.1, "other SAEs (under the penalty)"),
     (0, 0.0, "other SAEs")],
)  # fmt: skip
def test_axis_says_whom_atoms_agree_with(X, n_witnesses, alpha, label):
    sae = MFRSparseAutoencoder(
        n_components=20, n_saes=2, n_witnesses=n_witnesses, alpha=alpha, max_steps=5
    ).fit(X)
    display = FeatureAgreementDisplay.from_estimator(sae, X)
    assert display.ax_.get_ylabel() == f"Agreement with {label} (cosine)"


def test_what_cannot_be_shown_is_named(sae, alone, X):
    from_estimator = FeatureAgreementDisplay.from_estimator
    with pytest.raises(ValueError, match="n_witnesses=1 or more"):
        from_estimator(alone, X)
    with pytest.raises(ValueError, match="X has 5 features"):
        from_estimator(sae, X[:, :5])
    with pytest.raises(TypeError, match="ends with one, got PCA"):
        from_estimator(PCA().fit(X), X)
    from_dictionaries = FeatureAgreementDisplay.from_dictionaries
    with pytest.raises(ValueError, match="n_witnesses=1 or more"):
        from_dictionaries(np.eye(3), [], np.eye(3))
    with pytest.raises(ValueError, match="codes has 4 columns, but there are 3 atoms"):
        from_dictionaries(np.eye(3), [np.eye(3)], np.eye(4))


@pytest.mark.parametrize("k", [None, 3])
def test_saes_of_others_are_told_to_be_compared(tmp_path, alone, X, k):
    # A parameter of theirs would not help.
    to_sae_lens(alone, tmp_path)
    sae = from_sae_lens(tmp_path)
    if k is None:
        sae = estimator_with(PretrainedSAE(3), weights_of(sae))
    from_estimator = FeatureAgreementDisplay.from_estimator
    with pytest.raises(ValueError, match=rf"{type(sae).__name__} .*agreement\.compare"):
        from_estimator(sae, X)
    page = report(sae, X).html()
    assert "skmfr.agreement.compare" in page
    assert "fit more, or witnesses" not in page
    # As the message says.
    frame = compare({"it": sae, "other": alone.components_[::-1]}, verbose=0).loc["it"]
    for column in ("feature_agreement_", "reappearance_", "trusted_"):
        name = column.strip("_").removeprefix("feature_")
        setattr(sae, column, frame[name].to_numpy())
    display = from_estimator(sae, X)
    np.testing.assert_allclose(display.agreement, 1, atol=1e-6)
    assert display.ax_.get_ylabel() == "Agreement with other dictionaries (cosine)"


def test_colour_is_the_probability_to_return(sae, alone, X):
    display = FeatureAgreementDisplay.from_estimator(sae, X)
    for scatter, shown in [
        (display.trusted_scatter_, sae.trusted_),
        (display.untrusted_scatter_, ~sae.trusted_),
    ]:
        np.testing.assert_array_equal(scatter.get_array(), sae.reappearance_[shown])
        assert scatter.get_clim() == (0, 1)
    assert len(display.figure_.axes) == 2
    plain = display.plot(scatter_kwargs={"color": "red"})
    assert len(plain.figure_.axes) == 1
    assert plain.untrusted_scatter_.get_array() is None


@pytest.mark.parametrize(
    ("trusted", "label"), [(True, "trusted (20)"), (False, "not trusted (20)")]
)
def test_legend_has_only_kinds_that_are_shown(sae, X, trusted, label):
    sae = deepcopy(sae)
    sae.trusted_ = np.full(20, trusted)
    display = FeatureAgreementDisplay.from_estimator(sae, X)
    kinds = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert [kind for kind in kinds if "trusted" in kind] == [label]


def test_calibration_compares_probabilities_with_an_independent_fit():
    # Two bins: of four atoms said .25, one is in the truth; of six said .95, five.
    probability = np.repeat([0.25, 0.95], [4, 6])
    found = np.array([1, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    display = FeatureAgreementDisplay(
        agreement=probability,
        usage=None,
        null=0.3,
        threshold=0.8,
        reappearance=probability,
        truth=np.where(found, 0.8, 0.79),
    ).plot(kind="calibration")
    expected = [[0.25, 0.25], [0.95, 5 / 6]]
    np.testing.assert_allclose(display.bins_scatter_.get_offsets(), expected)
    for segment, (p, share), n in zip(
        display.intervals_.get_segments(), expected, (4, 6), strict=True
    ):
        # Wilson's interval in closed form.
        z = 1.959964
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / 4 / n**2)
        expected_ends = [(p, middle - half), (p, middle + half)]
        np.testing.assert_allclose(segment, expected_ends, atol=1e-6)
    assert display.line_.get_xydata().tolist() == [[0, 0], [1, 1]]


def test_truth_is_drawn_against_agreement_with_the_line_of_least_squares(sae, X):
    features = np.random.default_rng(0).standard_normal((30, 12))
    display = FeatureAgreementDisplay.from_estimator(sae, truth=features, kind="truth")
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    truth = (sae.components_ @ units.T).max(axis=1)
    points = np.concatenate(
        [
            scatter.get_offsets()
            for scatter in (display.trusted_scatter_, display.untrusted_scatter_)
        ]
    )
    expected = np.column_stack([sae.feature_agreement_, truth])
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(expected, axis=0))
    x, y = display.line_.get_xydata().T
    design = np.column_stack([expected[:, 0], np.ones(20)])
    slope, height = np.linalg.lstsq(design, truth, rcond=None)[0]
    np.testing.assert_allclose(y, slope * x + height)
    # Atoms of one agreement have no slope.
    display.agreement = np.full(20, 0.5)
    assert display.plot(kind="truth").line_ is None


def test_an_estimator_can_be_the_truth(sae, alone):
    from_estimator = FeatureAgreementDisplay.from_estimator
    shown = from_estimator(sae, truth=alone, kind="calibration")
    expected = from_estimator(sae, truth=alone.components_, kind="truth").truth
    np.testing.assert_array_equal(shown.truth, expected)


def test_atoms_of_pipelines_are_compared_in_the_data_that_enter_them(X):
    """Two sets of axes: the same atom has other coordinates."""
    from_estimator = FeatureAgreementDisplay.from_estimator
    sae = MFRSparseAutoencoder(20, k=2, max_steps=3, random_state=0)
    one = make_pipeline(PCA(10), sae).fit(X)
    other = deepcopy(one)
    other[0].components_ = -one[0].components_[::-1]
    other[1].components_ = -one[1].components_[:, ::-1]
    shown = from_estimator(one, truth=other, kind="truth")
    np.testing.assert_allclose(shown.truth, 1, atol=1e-6)
    # Known features are directions of the data, too.
    scaled = make_pipeline(StandardScaler(), clone(sae)).fit(X * np.logspace(0, 2, 12))
    features = scaled[-1].components_ * scaled[0].scale_
    shown = from_estimator(scaled, truth=features, kind="truth")
    np.testing.assert_allclose(shown.truth, 1, atol=1e-6)
    # Without the way back, in the coordinates of the SAE.
    normalised = make_pipeline(Normalizer(), clone(sae)).fit(X)
    for truth in (normalised, normalised[-1], normalised[-1].components_):
        shown = from_estimator(normalised, truth=truth, kind="truth")
        np.testing.assert_allclose(shown.truth, 1, atol=1e-6)
    with pytest.raises(ValueError, match="10 features"):
        from_estimator(one, truth=one[-1], kind="truth")


def test_what_a_kind_needs_is_named(sae, X):
    from_estimator = FeatureAgreementDisplay.from_estimator
    with pytest.raises(ValueError, match="kind='usage' needs X"):
        from_estimator(sae)
    with pytest.raises(ValueError, match="kind='truth' needs truth"):
        from_estimator(sae, X, kind="truth")
    with pytest.raises(ValueError, match="kind must be one of .*'calibration'"):
        from_estimator(sae, X, kind="scatter")
    with pytest.raises(ValueError, match="truth|others has 5 features"):
        from_estimator(sae, truth=np.eye(5), kind="truth")
    pair = MFRSparseAutoencoder(20, n_saes=1, n_witnesses=1, max_steps=5).fit(X)
    with pytest.raises(ValueError, match="n_witnesses=2 or more"):
        from_estimator(pair, truth=sae, kind="calibration")
