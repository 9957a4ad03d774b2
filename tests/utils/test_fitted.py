from types import SimpleNamespace

import pytest

from skmfr._utils.fitted import unchanged_on_error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_same_objects(error):
    kept = [1]
    estimator = SimpleNamespace(alpha=1, kept_=kept, gone_=2)
    with pytest.raises(error, match="half way"), unchanged_on_error(estimator):  # noqa: PT012
        del estimator.gone_
        estimator.kept_, estimator.new_ = [1], 3
        raise error("half way")
    assert vars(estimator) == {"alpha": 1, "kept_": [1], "gone_": 2}
    assert estimator.kept_ is kept


def test_what_succeeds_is_left_alone():
    estimator = SimpleNamespace(old_=1)
    with unchanged_on_error(estimator):
        estimator.new_ = 2
        del estimator.old_
    assert vars(estimator) == {"new_": 2}
