"""Samples before and after, against the reconstruction itself."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import ReconstructionDisplay


def test_images_are_the_samples_and_their_reconstruction(sae, X):
    display = ReconstructionDisplay.from_estimator(
        sae, X, samples=[5, 2, 9], image_shape=(3, 4)
    )
    assert sorted(display.samples) == [2, 5, 9]
    X_hat = sae.reconstruct(X)
    for column, sample in enumerate(display.samples):
        for row, data in enumerate((X, X_hat)):
            image = display.images_[row, column].get_array()
            np.testing.assert_array_equal(image, data[sample].reshape(3, 4))
    shown = X[[2, 5, 9]]
    limits = {image.get_clim() for image in display.images_.flat}
    assert limits == {(shown.min(), shown.max())}


def test_samples_are_spread_from_the_best_to_the_worst(sae, X):
    display = ReconstructionDisplay.from_estimator(sae, X, samples=3)
    residual = np.square(X - sae.reconstruct(X)).sum(axis=1)
    share = residual / np.square(X - X.mean(axis=0)).sum(axis=1)
    assert display.samples[0] == share.argmin()
    assert display.samples[2] == share.argmax()
    assert display.samples[1] == np.argsort(share)[150]
    np.testing.assert_allclose(display.sample_fvu, share[display.samples])


def test_fvu_is_written(sae, X):
    display = ReconstructionDisplay.from_estimator(sae, X, image_shape=(3, 4))
    assert display.fvu == pytest.approx(1 - sae.score(X))
    label = display.axes_[1, 0].get_ylabel()
    assert label == f"after (FVU {1 - sae.score(X):.3f})"
    first = display.axes_[0, 0].get_title()
    share = display.sample_fvu[0]
    assert first == f"sample {display.samples[0]}\nFVU {share:.2f}"


def test_curves_lie_over_each_other(sae, X):
    display = ReconstructionDisplay.from_estimator(
        sae, X, samples=2, n_channels=3, sfreq=10, trusted_only=True
    )
    X_hat = sae.reconstruct(X, trusted_only=True)
    assert display.axes_.shape == (2, 1)
    for column, sample in enumerate(display.samples):
        before, after = display.images_[:, column]
        offsets = [
            [line.get_ydata() - data[sample].reshape(3, 4)[i]
             for i, line in enumerate(lines)]
            for lines, data in ((before, X), (after, X_hat))
        ]  # fmt: skip
        # Each channel is moved by the same for all times, before and after.
        np.testing.assert_allclose(offsets[0], offsets[1], atol=1e-12)
        np.testing.assert_allclose(np.ptp(offsets[0], axis=1), 0, atol=1e-12)
        assert before[0].axes is after[0].axes is display.axes_[column, 0]
    texts = display.axes_[0, 0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == [
        "before", f"after (FVU {display.fvu:.3f})"
    ]  # fmt: skip
    assert display.axes_[-1, 0].get_xlabel() == "Time (s)"


def test_any_kind_of_data_can_be_shown(sae, X):
    expected = ReconstructionDisplay.from_estimator(sae, X)
    for data in (pd.DataFrame(X), torch.tensor(X), X.tolist()):
        display = ReconstructionDisplay.from_estimator(sae, data)
        # Sums depend on the order of the numbers in memory.
        np.testing.assert_allclose(display.after, expected.after, atol=1e-12)


def test_pipelines_show_what_reaches_the_sae(X):
    usual = {"n_saes": 1, "n_witnesses": 0, "max_steps": 10, "random_state": 0}
    sae = MFRSparseAutoencoder(20, k=3, **usual)
    pipeline = make_pipeline(StandardScaler(), sae).fit(X)
    display = ReconstructionDisplay.from_estimator(pipeline, X, samples=[4])
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(display.before, scaled[[4]])
    assert display.fvu == pytest.approx(1 - pipeline.score(X))


def test_a_sample_that_is_the_mean_has_no_share():
    X = np.array([[0.0, 0], [1, 1], [2, 2]])
    display = ReconstructionDisplay.from_reconstruction(X, X + 0.5, samples=3)
    assert display.samples.tolist() == [0, 2, 1]
    np.testing.assert_array_equal(display.sample_fvu, [0.25, 0.25, np.nan])
    assert display.axes_[2, 0].get_title("left") == "sample 1, FVU undefined"
    assert display.fvu == 0.375


def test_what_cannot_be_shown_is_named(sae, X):
    from_estimator = ReconstructionDisplay.from_estimator
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) has 25 values"):
        from_estimator(sae, X, image_shape=(5, 5))
    with pytest.raises(ValueError, match="X has 5 features"):
        from_estimator(sae, X[:, :5])
    with pytest.raises(ValueError, match="samples must be from 0 to 299"):
        from_estimator(sae, X, samples=[300])
    with pytest.raises(ValueError, match="X_hat has 3 features, but X has 2"):
        ReconstructionDisplay.from_reconstruction(np.eye(2), np.eye(2, 3))
