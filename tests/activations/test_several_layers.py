"""Several layers in one pass: each gives what it gives alone."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from skmfr.activations import ActivationExtractor, top_contexts

LAYERS = ["1", "0", "2"]
WIDTHS = [8, 6, 8]


class Runs:
    """Sizes of the batches of a model."""

    def __init__(self):
        self.first, self.last, self.limit = [], [], np.inf


class Stop(Exception):
    """What ends a pass in its middle."""


@pytest.fixture
def runs():
    """Beside the model, because files and caches identify it by what it holds."""
    return Runs()


@pytest.fixture
def model(runs):
    """Of layers in another order, and one that changes its input in place."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(20, 6), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    )
    with torch.no_grad():
        model[0].weight[9] *= 100

    def stop(module, arguments):
        if len(runs.first) >= runs.limit:
            raise Stop

    model[0].register_forward_pre_hook(stop)
    model[0].register_forward_hook(lambda m, i, o: runs.first.append(len(i[0])))
    model[3].register_forward_hook(lambda m, i, o: runs.last.append(len(i[0])))
    return model


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 9, size=n) for n in (4, 9, 3, 6, 5)] + [np.array([9, 1, 2])]


def alone(model, layer, tokens, **options):
    return ActivationExtractor(model, layer, **options).fit_transform(tokens)


@pytest.mark.parametrize("positions", ["all", "mean", "last"])
@pytest.mark.parametrize("way", ["memory", "cache", "files"])
@pytest.mark.parametrize("left_out", [{}, {"skip_first": 1, "max_norm_ratio": 3.0}])
def test_each_layer_gives_what_it_gives_alone(
    model, runs, tokens, way, positions, left_out, tmp_path
):
    options = {"positions": positions, "batch_size": 2, **left_out}
    extractor = ActivationExtractor(
        model,
        LAYERS,
        memory=str(tmp_path / "cache") if way == "cache" else None,
        out=[tmp_path / f"{i}.npy" for i in LAYERS] if way == "files" else None,
        **options,
    )
    found = extractor.fit_transform(tokens)
    n_inputs = sum(runs.first)
    assert not runs.last  # no further than the last layer
    assert extractor.n_features_out_ == WIDTHS
    if not left_out and way == "memory":
        # The first for the widths, all for the rows, whatever the number of layers.
        assert n_inputs == 1 + len(tokens)
    expected = [alone(model, layer, tokens, **options) for layer in LAYERS]
    for rows, of_layer in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, of_layer, rtol=1e-5, atol=1e-6)
    if way == "files":
        for layer, rows in zip(LAYERS, found, strict=True):
            assert isinstance(rows, np.memmap)
            # And alone it is the same file.
            file = tmp_path / f"{layer}.npy"
            again = ActivationExtractor(model, layer, out=file, **options).fit(tokens)
            np.testing.assert_array_equal(again.transform(tokens), rows)


def test_files_that_are_not_equally_far_go_on(model, runs, tokens, tmp_path):
    files = [tmp_path / f"{layer}.npy" for layer in LAYERS]
    options = {"positions": "all", "batch_size": 1}
    expected = [alone(model, layer, tokens, **options) for layer in LAYERS]
    # Of the first file four inputs are there, of the second two, and the third whole.
    for file, layer, n in zip(files, LAYERS, (4, 2), strict=False):
        runs.first.clear()
        runs.limit = n
        with pytest.raises(Stop):
            ActivationExtractor(model, layer, out=file, **options).transform(tokens)
    runs.limit = np.inf
    ActivationExtractor(model, LAYERS[2], out=files[2], **options).transform(tokens)
    runs.first.clear()
    several = ActivationExtractor(model, LAYERS, out=files, **options)
    for rows, of_layer in zip(several.transform(tokens), expected, strict=True):
        np.testing.assert_array_equal(rows, of_layer)
    runs.first.clear()
    several.transform(tokens)
    assert not runs.first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": []}, "layer must be"),
        ({"layer": ["0", 1]}, "layer must be"),
        ({"layer": ["0", "1", "0"]}, "layer must name each layer once"),
        ({"layer": ["0", "nowhere"]}, "layer='nowhere' is not a module"),
        ({"layer": ["0", "4"]}, "layer='4' never runs"),
        ({"sae": PCA(2)}, "sae codes one layer"),
        ({"out": "one.npy"}, "out must list 3"),
        ({"out": ["one.npy"]}, "out must list 3"),
        ({"out": ["one.npy", "two.npy", "one.npy"]}, "out must list each file once"),
    ],
)
def test_what_cannot_be_done_is_told(model, tokens, wrong, message):
    class Unused(nn.Sequential):
        def forward(self, X):
            for layer in list(self)[:4]:
                X = layer(X)
            return X

    unused = Unused(*model, nn.Linear(3, 3))
    extractor = ActivationExtractor(unused, LAYERS).set_params(**wrong)
    with pytest.raises(ValueError, match=message):
        extractor.fit(tokens).transform(tokens)


def test_contexts_are_of_one_layer(model, tokens):
    extractor = ActivationExtractor(model, LAYERS, positions="all")
    with pytest.raises(ValueError, match="extractor must have one layer"):
        top_contexts(PCA(2), extractor, tokens)
