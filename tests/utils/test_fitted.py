import pytest

from skmfr._utils.fitted import unchanged_on_error


class Estimator:
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_attributes_are_the_same_objects(error):
    estimator = Estimator()
    estimator.kept, estimator.changed = [1], [2]
    before = dict(vars(estimator))

    def fail():
        with unchanged_on_error(estimator):
            estimator.changed, estimator.added = [3], [4]
            del estimator.kept
            raise error

    with pytest.raises(error):
        fail()
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is value for name, value in before.items())


def test_without_an_error_what_was_set_stays():
    estimator = Estimator()
    with unchanged_on_error(estimator):
        estimator.added = 1
    assert vars(estimator) == {"added": 1}
