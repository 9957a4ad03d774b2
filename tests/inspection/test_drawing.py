"""What all displays have in common."""

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmfr import MFRSparseAutoencoder, inspection
from skmfr.eeg import EEGDenoiser
from skmfr.inspection._drawing import (
    check_layout,
    chosen,
    draw_curves,
    draw_image,
    panels,
)

DISPLAYS = [
    (inspection.DictionaryDisplay, False),
    (inspection.FeatureAgreementDisplay, True),
    (inspection.ReconstructionDisplay, True),
    (inspection.SimilarityDisplay, False),
    (inspection.TrainingCurveDisplay, False),
]
every_display = pytest.mark.parametrize(
    ("display", "takes_X"), DISPLAYS, ids=[display.__name__ for display, _ in DISPLAYS]
)


@every_display
def test_without_matplotlib_the_extra_is_named(
    display, takes_X, sae, X, without_matplotlib
):
    with pytest.raises(ImportError, match=rf"{display.__name__}.*skmfr\[plot\]"):
        display.from_estimator(sae, *[X] * takes_X)


@every_display
@pytest.mark.parametrize(
    "estimator",
    [
        MFRSparseAutoencoder(),
        make_pipeline(StandardScaler(), MFRSparseAutoencoder()),
    ],
)
def test_unfitted_estimators_are_refused(display, takes_X, estimator, X):
    if takes_X and hasattr(estimator, "steps"):
        estimator[0].fit(X)
    with pytest.raises(NotFittedError):
        display.from_estimator(estimator, *[X] * takes_X)


@every_display
def test_other_estimators_are_refused(display, takes_X, X):
    with pytest.raises(TypeError, match="got StandardScaler"):
        display.from_estimator(StandardScaler().fit(X), *[X] * takes_X)


@every_display
def test_a_display_is_drawn_again_in_axes_that_are_given(display, takes_X, sae, X):
    shown = display.from_estimator(sae, *[X] * takes_X)
    figure, ax = plt.subplots()
    assert shown.plot(ax) is shown
    assert shown.ax_ is ax
    assert shown.figure_ is figure
    n_panels = getattr(shown, "axes_", np.empty(0)).size
    # And perhaps a colour bar.
    assert n_panels + 1 <= len(figure.axes) <= n_panels + 2


@every_display
def test_estimators_stay_as_they_are(display, takes_X, sae, X):
    before = joblib.hash(sae.__dict__)
    display.from_estimator(sae, *[X] * takes_X)
    assert joblib.hash(sae.__dict__) == before


@every_display
def test_figures_can_be_saved(display, takes_X, sae, X, tmp_path):
    figure = display.from_estimator(sae, *[X] * takes_X).figure_
    figure.savefig(tmp_path / "figure.png")
    image = plt.imread(tmp_path / "figure.png")
    assert image[..., :3].std() > 0.05


def test_denoisers_that_are_not_fitted_are_refused():
    with pytest.raises(NotFittedError):
        inspection.DictionaryDisplay.from_estimator(EEGDenoiser())


def test_panels_divide_the_axes(sae):
    figure, (left, _) = plt.subplots(1, 2)
    ax, axes = panels("test", left, (2, 3), None)
    assert ax is left
    assert axes.shape == (2, 3)
    figure.canvas.draw()
    whole = left.get_position()
    assert axes[0, 0].get_position().x0 == pytest.approx(whole.x0)
    assert axes[1, 2].get_position().x1 == pytest.approx(whole.x1)
    with pytest.raises(ValueError, match="not part of a subplot grid"):
        panels("test", figure.add_axes([0, 0, 1, 1]), (1, 1), None)


def test_layouts_that_do_not_fit_are_named():
    assert check_layout(12, (3, 4), 1, None) == (3, 4)
    assert check_layout(12, [2, 2, 3], 1, None) == (2, 2, 3)
    assert check_layout(12, np.array([3, 4]), 1, None) == (3, 4)
    assert check_layout(12, None, 4, 100.0) is None
    with pytest.raises(ValueError, match=r"image_shape=\(3, 5\) has 15 values"):
        check_layout(12, (3, 5), 1, None)
    for shape in [12, (12,), (3, 2, 2), (1, 1, 3, 4), (-3, -4), (3.0, 4.0), "ab"]:
        with pytest.raises(ValueError, match="image_shape must be"):
            check_layout(12, shape, 1, None)
    for n_channels in (0, 5):
        with pytest.raises(ValueError, match=f"n_channels={n_channels}"):
            check_layout(12, None, n_channels, None)
    for sfreq in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="sfreq must be above 0"):
            check_layout(12, None, 1, sfreq)


def test_curves_are_lower_one_after_the_other():
    _, ax = plt.subplots()
    sample = np.arange(6.0)
    lines = draw_curves(ax, sample, 3, spacing=10.0, sfreq=4)
    drawn = [line.get_ydata().tolist() for line in lines]
    assert drawn == [[0, 1], [2 - 10, 3 - 10], [4 - 20, 5 - 20]]
    assert lines[0].get_xdata().tolist() == [0, 0.25]
    assert ax.get_yticks().tolist() == [0, -10, -20]


def test_of_many_channels_every_third_is_named():
    _, ax = plt.subplots()
    draw_curves(ax, np.zeros(50), 25, spacing=2.0, sfreq=None)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [str(i) for i in range(0, 25, 3)]
    assert ax.get_yticks().tolist() == [-2 * i for i in range(0, 25, 3)]


def test_colour_images_are_scaled_and_cut_off():
    _, ax = plt.subplots()
    image = draw_image(ax, np.arange(-2.0, 4.0), (1, 2, 3), -1, 3, None)
    np.testing.assert_array_equal(image.get_array(), [[[0, 0, 0.25], [0.5, 0.75, 1]]])


def test_choices_are_spread_over_the_ranks_or_ranked():
    scores = np.array([0.1, 0.5, np.nan, 0.9, 0.3])
    assert chosen(3, "atoms", scores).tolist() == [3, 4, 2]
    assert chosen(99, "atoms", scores).tolist() == [3, 1, 4, 0, 2]
    assert chosen(1, "atoms", scores).tolist() == [3]
    assert chosen([0, 2, 1], "atoms", scores).tolist() == [1, 0, 2]
    # A mask, as trusted_ of an estimator.
    assert chosen(scores > 0.2, "atoms", scores).tolist() == [3, 1, 4]
    assert chosen([True, False, True, False, False], "atoms", scores).tolist() == [0, 2]


NONE = [0, -1, [], [5], [-1], 1.5, "best", [[1]], True, [True], [False] * 5]


@pytest.mark.parametrize("choice", NONE)
def test_choices_that_are_none_are_named(choice):
    with pytest.raises(ValueError, match="atoms "):
        chosen(choice, "atoms", np.zeros(5))
