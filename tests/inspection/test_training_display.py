"""Curves of training, against what the callback was told."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import TrainingCurveDisplay, TrainingHistory, report
from skmfr.io import from_sae_lens, load, save, to_sae_lens


def drawn(display) -> dict[str, np.ndarray]:
    return {name: line.get_ydata() for name, line in display.lines_.items()}


def test_history_is_what_the_callback_is_told(X):
    told = []

    def both(step, info):
        told.append((step, dict(info)))
        return TrainingHistory()(step, info)

    sae = MFRSparseAutoencoder(6, k=2, max_steps=5, callback=both, random_state=0)
    history = sae.fit(X).history_
    assert history == [{"step": step, **info} for step, info in told]
    assert pd.DataFrame(history).shape == (5, 9)


def test_a_fit_changes_no_parameter_and_clones_have_no_history(sae, X):
    again = clone(sae)
    before = joblib.hash(again.get_params())
    assert before == joblib.hash(sae.get_params())
    assert not hasattr(again, "history_")
    again.set_params(max_steps=3).fit(X)
    assert joblib.hash(again.set_params(max_steps=60).get_params()) == before
    assert len(again.history_) == 3
    assert len(sae.history_) == 60


def test_what_a_callback_does_not_return_as_a_dict_is_not_kept(X):
    parameters = {"n_components": 6, "k": 2, "max_steps": 3, "random_state": 0}
    for callback in (None, lambda step, info: None, lambda step, info: step):
        sae = MFRSparseAutoencoder(**parameters, callback=callback).fit(X)
        assert sae.history_ == []
    # That of a fit that was not watched would be of other steps.
    sae.set_params(callback=TrainingHistory()).fit(X)
    sae.set_params(callback=None, warm_start=True).fit(X)
    assert sae.history_ == []
    own = MFRSparseAutoencoder(**parameters, callback=lambda step, info: {"k": 2})
    assert own.fit(X).history_ == [{"k": 2}] * 3
    assert list(TrainingCurveDisplay.from_estimator(own).lines_) == ["fvu"]


def test_curves_are_what_was_recorded(sae):
    display = TrainingCurveDisplay.from_estimator(sae)
    curves = drawn(display)
    assert list(curves) == ["fvu", "agreement", "dead", "n_reinits"]
    np.testing.assert_allclose(curves["fvu"], sae.loss_curve_, rtol=1e-6)
    for name in ("agreement", "n_reinits"):
        recorded = [record[name] for record in sae.history_]
        np.testing.assert_array_equal(curves[name], recorded)
    np.testing.assert_array_equal(display.lines_["fvu"].get_xdata(), np.arange(1, 61))
    assert [axis.get_title("left") for axis in display.axes_] == [
        "FVU of each batch", "Agreement (cosine)", "Dead atoms (%)",
        "Reinitialisations",
    ]  # fmt: skip


def test_reinitialisations_are_counted(X):
    sae = MFRSparseAutoencoder(
        12, k=2, n_witnesses=1, max_steps=20, batch_size=50, reinit_threshold=1e-9,
        reinit_every=4, callback=TrainingHistory(), random_state=0,
    ).fit(X)  # fmt: skip
    counts = drawn(TrainingCurveDisplay.from_estimator(sae))["n_reinits"]
    # At steps 4 and 8, before the middle: three SAEs and the witness.
    np.testing.assert_array_equal(counts, np.repeat([0, 4, 8], [3, 4, 13]))
    assert sae.n_reinits_.tolist() == [2, 2, 2]


def test_dead_atoms_are_in_per_cent():
    history = [{"fvu": 0.5, "dead": share} for share in (0, 0.25, 1)]
    display = TrainingCurveDisplay.from_history(history)
    assert drawn(display)["dead"].tolist() == [0, 25, 100]
    assert list(display.lines_) == ["fvu", "dead"]


def test_background_marks_the_penalty(sae):
    display = TrainingCurveDisplay.from_estimator(sae)
    on = [record["step"] for record in sae.history_ if record["alpha"] > 0]
    for axis in display.axes_:
        (span,) = axis.patches
        # A rectangle or, in Matplotlib before 3.9, a polygon.
        path = span.get_patch_transform().transform_path(span.get_path())
        assert path.get_extents().intervalx.tolist() == [on[0], on[-1]]
    (entry,) = display.axes_[0].get_legend().get_texts()
    assert entry.get_text() == "penalty on"
    display.alpha = np.zeros(60)
    assert not display.plot().axes_[0].patches
    assert display.axes_[0].get_legend() is None


def test_steps_are_counted_from_one_and_spans_of_the_penalty_apart():
    X = np.random.default_rng(0).standard_normal((50, 4))
    sae = MFRSparseAutoencoder(4, k=2, max_steps=7, random_state=0).fit(X)
    display = TrainingCurveDisplay.from_estimator(sae)
    assert display.lines_["fvu"].get_xdata().tolist() == [1, 2, 3, 4, 5, 6, 7]
    display.alpha = [0, 0.1, 0.1, 0, 0, 0.1, 0.1]
    spans = []
    for patch in display.plot().axes_[0].patches:
        path = patch.get_patch_transform().transform_path(patch.get_path())
        spans.append(path.get_extents().intervalx.tolist())
    assert spans == [[2, 3], [6, 7]]


def test_steps_between_two_fits_without_penalty_are_not_marked(X):
    sae = MFRSparseAutoencoder(
        6, k=2, max_steps=50, callback=TrainingHistory(), warm_start=True
    )
    history = sae.fit(X).fit(X).history_
    display = TrainingCurveDisplay.from_history(history[-60:])
    marked = np.zeros(101, bool)
    for span in display.axes_[0].patches:
        marked[int(span.get_x()) : int(span.get_x() + span.get_width()) + 1] = True
    alpha = np.array([record["alpha"] for record in history])
    on = np.flatnonzero(alpha > 0) + 1
    np.testing.assert_array_equal(np.flatnonzero(marked), on[on > 40])
    assert len(display.axes_[0].get_legend().get_texts()) == 1
    # Each call counts its own steps.
    history = sae.partial_fit(X).partial_fit(X).history_
    step = TrainingCurveDisplay.from_history(history).step
    np.testing.assert_array_equal(step, np.arange(len(history)) + 1)


def sometimes(step, info):
    """Record every third step."""
    return TrainingHistory()(step, info) if step % 3 == 0 else None


def interrupted(step, info):
    """Ctrl-C before the fourth record is returned."""
    if step == 4:
        raise KeyboardInterrupt
    return TrainingHistory()(step, info)


def fit_interrupted(sae, X):
    with (
        pytest.warns(ConvergenceWarning, match="interrupted"),
        pytest.raises(KeyboardInterrupt),
    ):
        sae.fit(X)


def test_steps_without_a_record_are_left_out(X):
    sae = MFRSparseAutoencoder(
        6, k=2, max_steps=8, callback=sometimes, warm_start=True, random_state=0
    )
    display = TrainingCurveDisplay.from_estimator(sae.fit(X))
    assert display.step.tolist() == [3, 6]
    np.testing.assert_allclose(display.fvu, sae.loss_curve_[[2, 5]], rtol=1e-6)
    history = sae.set_params(max_steps=9).fit(X).history_
    # Only the estimator knows that its first call had two more steps.
    assert TrainingCurveDisplay.from_history(history).step.tolist() == [
        3, 6, 9, 12, 15,
    ]  # fmt: skip
    display = TrainingCurveDisplay.from_estimator(sae)
    assert display.step[2:].tolist() == [11, 14, 17]
    np.testing.assert_allclose(
        display.fvu[2:], sae.loss_curve_[[10, 13, 16]], rtol=1e-6
    )


def test_an_interrupt_in_the_callback_moves_no_step(X):
    sae = MFRSparseAutoencoder(6, k=2, max_steps=8, callback=interrupted)
    fit_interrupted(sae, X)
    assert sae.n_steps_ == 4
    assert TrainingCurveDisplay.from_estimator(sae).step.tolist() == [1, 2, 3]


def test_records_without_steps_are_those_of_all_steps(X):
    def told(step, info):
        return {"fvu": info["fvu"]} if step % every == 0 else None

    sae = MFRSparseAutoencoder(6, k=2, max_steps=4, callback=told)
    every = 1
    display = TrainingCurveDisplay.from_estimator(sae.fit(X))
    assert display.step.tolist() == [1, 2, 3, 4]
    every = 2
    with pytest.raises(ValueError, match='2 records without "step" of 4 steps: let'):
        TrainingCurveDisplay.from_estimator(sae.fit(X))


@pytest.mark.parametrize("names", [("lw", "c"), ("linewidth", "color")])
def test_styles_have_short_names_too(sae, names):
    display = TrainingCurveDisplay.from_estimator(
        sae, line_kwargs=dict(zip(names, (3, "red"), strict=True))
    )
    assert display.lines_["fvu"].get_linewidth() == 3
    assert display.lines_["fvu"].get_color() == "red"


def test_without_history_the_loss_curve_is_shown(alone):
    display = TrainingCurveDisplay.from_estimator(alone)
    assert list(display.lines_) == ["fvu"]
    np.testing.assert_array_equal(drawn(display)["fvu"], alone.loss_curve_)


def test_nothing_to_agree_with_is_no_curve(X):
    sae = MFRSparseAutoencoder(
        6, n_saes=1, n_witnesses=0, max_steps=5, callback=TrainingHistory()
    ).fit(X)
    display = TrainingCurveDisplay.from_estimator(sae)
    assert list(display.lines_) == ["fvu", "dead", "n_reinits"]


def test_a_second_fit_is_shown_alone_and_a_continued_one_whole(X):
    sae = MFRSparseAutoencoder(
        6, k=2, max_steps=5, callback=TrainingHistory(), random_state=0
    )
    for fitted in (sae.fit(X).fit(X), sae.set_params(warm_start=True).fit(X)):
        display = TrainingCurveDisplay.from_estimator(fitted)
        assert display.step.tolist() == list(range(1, fitted.n_steps_ + 1))
        np.testing.assert_allclose(display.fvu, fitted.loss_curve_, rtol=1e-6)
    assert sae.n_steps_ == 10


def test_a_history_that_begins_at_a_checkpoint_begins_there(X, tmp_path):
    parameters = {
        "n_components": 6, "k": 2, "max_steps": 6, "random_state": 0,
        "checkpoint_dir": tmp_path, "checkpoint_every": 4,
    }  # fmt: skip
    MFRSparseAutoencoder(**parameters).fit(X)
    sae = MFRSparseAutoencoder(**parameters, callback=TrainingHistory()).fit(X)
    display = TrainingCurveDisplay.from_estimator(sae)
    assert display.step.tolist() == [5, 6]
    np.testing.assert_allclose(display.fvu, sae.loss_curve_[4:], rtol=1e-6)


def test_a_history_has_no_gap_before_a_checkpoint(X, tmp_path):
    parameters = {
        "n_components": 6, "k": 2, "max_steps": 6, "random_state": 0,
        "warm_start": True, "callback": TrainingHistory(),
    }  # fmt: skip
    sae = MFRSparseAutoencoder(**parameters).fit(X)
    again = pickle.loads(pickle.dumps(sae))
    checkpoints = {"checkpoint_dir": tmp_path, "checkpoint_every": 4}
    assert len(sae.set_params(**checkpoints).fit(X).history_) == 12
    assert [record["step"] for record in sae.history_] == [*range(1, 7)] * 2
    again.set_params(**checkpoints).fit(X)
    assert [record["step"] for record in again.history_] == [5, 6]


def test_the_history_of_a_forgotten_call_is_forgotten(X):
    sae = MFRSparseAutoencoder(6, k=2, batch_size=3, callback=TrainingHistory())
    sae.partial_fit(X[:1]).partial_fit(X[:9])
    assert len(sae.history_) == sae.n_steps_ == 3
    assert len(sae.partial_fit(X[:9]).history_) == 6


def test_histories_are_pickled_with_their_estimator(sae, tmp_path):
    joblib.dump(sae, tmp_path / "sae")
    loaded = joblib.load(tmp_path / "sae")
    display = TrainingCurveDisplay.from_estimator(loaded)
    assert list(display.lines_)[1:] == ["agreement", "dead", "n_reinits"]
    assert loaded.history_ == sae.history_
    assert "callback=TrainingHistory()" in repr(loaded)


def test_what_is_no_history_is_named():
    with pytest.raises(ValueError, match="history is empty"):
        TrainingCurveDisplay.from_history([])
    with pytest.raises(ValueError, match='records without "fvu"'):
        TrainingCurveDisplay.from_history([{"step": 1}])


def test_an_sae_that_was_trained_elsewhere_has_no_curve(sae, X, tmp_path):
    pytest.importorskip("safetensors")
    to_sae_lens(sae, tmp_path)
    imported = from_sae_lens(tmp_path)
    with pytest.raises(ValueError, match="imported"):
        TrainingCurveDisplay.from_estimator(imported)
    save(sae, tmp_path / "alone", training_state=False)
    with pytest.raises(ValueError, match="training_state=False"):
        TrainingCurveDisplay.from_estimator(load(tmp_path / "alone"))
    # The page of atoms does without.
    assert report(imported, X).html()
