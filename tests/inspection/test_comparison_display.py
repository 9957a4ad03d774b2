"""What is drawn of a comparison, against the frame that it stands for."""

import numpy as np
import pytest

from skmfr.agreement import compare
from skmfr.inspection import ComparisonDisplay


def test_curves_are_shares_of_atoms_that_agree_as_much():
    draw = np.random.default_rng(0)
    saes = {"a": draw.standard_normal((30, 6)), "b": draw.standard_normal((20, 6))}
    frame = compare(saes, verbose=0)
    display = ComparisonDisplay.from_frame(frame)
    for line, name in zip(display.lines_, saes, strict=True):
        agreement = frame.loc[name, "agreement"].to_numpy()
        assert line.get_label() == name
        for at, share in zip(*line.get_data(), strict=True):
            assert share == np.mean(agreement >= at)
    assert display.threshold_line_.get_xdata()[0] == np.mean(
        list(frame.attrs["level"].values())
    )
    frame.attrs.clear()  # as a file of CSV does
    with pytest.raises(ValueError, match="attrs"):
        ComparisonDisplay.from_frame(frame)
    again = ComparisonDisplay.from_saes(saes, verbose=0, ax=display.ax_)
    assert again.figure_ is display.figure_
    np.testing.assert_array_equal(again.lines_[1].get_xdata(), line.get_xdata())
