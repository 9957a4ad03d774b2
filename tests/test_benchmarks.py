"""Each table of benchmarks/ in small: made to its end, with numbers that are right.

What is printed is also written, and drawn again from what is written.
"""

import csv
import gzip
import json
import os
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import Bunch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks import (
    _controls,
    _data,
    _eeg_added,
    _eeg_kept,
    _eeg_methods,
    _eeg_peers,
    _efficientnet,
    _jobs,
    _kept,
    _methods,
    _results,
    _rivals,
    _smollm2,
    _texts,
    activations,
    defaults,
    eeg,
    gpu_check,
    load,
    memory,
    others,
    probing,
    reappearance,
    recovery,
    speed,
    speed_gpu,
    use,
)
from skmfr import MFRSparseAutoencoder
from skmfr._sae.ensemble import Ensemble
from skmfr._training import step
from skmfr._training.objective import Gradients
from skmfr.datasets import make_superposition

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Whatever else is installed, only what needs no other package.
OWN = "^(ours|paper|PCA|Mini)"


@pytest.fixture
def table(monkeypatch, capsys, tmp_path_factory):
    """Runs a benchmark's command; the rows that it prints, by their first cell."""

    def run(module, *arguments) -> dict[str, list[str]]:
        folder = tmp_path_factory.mktemp("results")
        given = [*map(str, arguments), "--results", str(folder)]
        monkeypatch.setattr(sys, "argv", [module.__name__, *given])
        capsys.readouterr()
        module.main()
        printed = capsys.readouterr().out.splitlines()
        (path,) = folder.iterdir()
        results = _results.load(path.stem, folder)
        drawn = _results.markdown(results["rows"], results["digits"])
        assert drawn == [line for line in printed if line.startswith("|")]
        lines = [line for line in drawn if line[:2] == "| "]
        rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        assert len({len(row) for row in rows}) == 1
        return {name: cells for name, *cells in rows}

    return run


def number(cell: str) -> float:
    """The mean that a cell shows."""
    return float(cell.split()[0])


def problem(seed=0):
    X, _, truth = make_superposition(600, 8, 12, n_active=2, random_state=seed)
    X = X.astype(np.float32)
    return _methods.Problem(X[200:], X[:200], truth, 12, 2, 20, 64)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(recovery.SYNTHETIC, "superposition", problem)
    monkeypatch.setattr(_methods, "DICTIONARY_SECONDS", 0.5)


@pytest.mark.usefixtures("small")
def test_recovery_compares_by_held_out_samples(table):
    rows = table(recovery, "compare", "--seeds", 1, "--only", OWN)
    columns = rows.pop("method")
    assert len(rows) >= 7
    for name, row in rows.items():
        cells = dict(zip(columns, row, strict=True))
        # Least squares on a support cannot be worse than other values there.
        assert number(cells["lstsq"]) <= number(cells["FVU"]) < 1.5, name
        assert 0 <= number(cells["recall"]) <= 1, name
        assert number(cells["MMCS"]) > 0.5, name
    X, X_test, *_ = problem()
    own = MFRSparseAutoencoder(
        12, k=2, max_steps=20, batch_size=64, random_state=0
    ).fit(X)
    assert number(rows["ours, default"][0]) == pytest.approx(
        1 - own.score(X_test), abs=1e-4
    )


def test_rivals_train_as_they_say():
    X = problem().X
    sae = MFRSparseAutoencoder(12, k=2, max_steps=30, n_saes=1, n_witnesses=0)
    with _rivals.aligned():
        fit = clone(sae).set_params(random_state=0).fit(X)
    assert np.allclose((fit.components_ * fit.encoder_weights_).sum(1), 1, atol=1e-5)
    penalised = clone(sae).set_params(random_state=0).fit(X)
    with _rivals.encoders_not_penalised():
        fit = clone(sae).set_params(random_state=0).fit(X)
    norms = [np.linalg.norm(each.encoder_weights_) for each in (penalised, fit)]
    assert norms[0] < norms[1]


def test_samples_share_their_atoms_from_the_first_step(monkeypatch):
    k_of_steps = []
    original = step.ENCODERS["batchtopk"]

    def spy(X_centred, ensemble, k, *more):
        k_of_steps.append(k)
        return original(X_centred, ensemble, k, *more)

    monkeypatch.setitem(step.ENCODERS, "batchtopk", spy)
    alone = {"n_saes": 1, "n_witnesses": 0}
    fitted = _rivals.shared_from_the_first_step(**alone)(problem(), 0)
    assert len(k_of_steps) == problem().n_steps
    n_active = np.diff(fitted.sae.encode(problem().X).indptr)
    assert n_active.mean() == pytest.approx(problem().k, abs=1 / len(n_active))
    assert n_active.min() < problem().k < n_active.max()


def test_nested_gradients_equal_autograd():
    """The mean FVU of first parts of two dictionaries, dense, with support fixed."""
    n_members, n_samples, n_components, n_features, k = 2, 30, 17, 6, 5
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    X = numbers(n_samples, n_features)
    atoms = nn.functional.normalize(numbers(n_members, n_components, n_features), dim=2)
    ensemble = Ensemble.starting_from(atoms, tied=False)
    ensemble.encoder += 0.3 * numbers(*ensemble.encoder.shape)
    ensemble.decoder_bias += 0.3 * numbers(n_members, n_features)
    X_centred = ensemble.centred(X)
    codes = step.ENCODERS["topk"](X_centred, ensemble, k)
    found = Gradients.like(ensemble)
    fvu, residual = _rivals.nested_reconstruction_(found, X_centred, codes, ensemble, 3)

    names = Gradients._fields
    leaves = {name: getattr(ensemble, name).clone().requires_grad_() for name in names}
    bias = leaves["decoder_bias"].unsqueeze(1)
    active = torch.zeros(n_members * n_samples, n_components, dtype=torch.float64)
    active.scatter_(1, codes.indices % n_components, (codes.values > 0).double())
    scores = (X - bias) @ leaves["encoder"].transpose(1, 2)
    dense = (scores + leaves["encoder_bias"].unsqueeze(1)) * active.view_as(scores)
    losses = []
    # An eighth, a quarter, a half and all of 17 atoms.
    for end in (2, 4, 8, 17):
        X_hat = dense[:, :, :end] @ leaves["decoder"][:, :end] + bias
        losses.append((X - X_hat).square().sum((1, 2)) / (3 * n_samples))
    torch.stack(losses).mean(0).sum().backward()
    torch.testing.assert_close(fvu, losses[-1].detach())
    torch.testing.assert_close(residual, (X - X_hat).detach().flatten(0, 1))
    for name, gradient in zip(names, found, strict=True):
        torch.testing.assert_close(gradient, leaves[name].grad, rtol=1e-8, atol=1e-14)


def test_nested_rivals_train_with_the_nested_loss():
    alone = {"n_saes": 1, "n_witnesses": 0}
    shared = _rivals.shared_from_the_first_step(**alone)
    usual = shared(problem(), 0).sae.atoms
    nested = _rivals.changed(_rivals.nested, shared)(problem(), 0).sae.atoms
    assert not np.array_equal(usual, nested)
    again = shared(problem(), 0).sae.atoms
    assert np.array_equal(usual, again)


def test_mean_of_matched_atoms():
    """Of three dictionaries: one turned and in another order, one unlike."""
    atoms = np.eye(4)[:3]
    turned = np.array([[0, 0, 0.8, 0.6], [0.8, 0, 0, 0.6], [0, 0.8, 0, 0.6]])
    unlike = np.repeat(np.eye(4)[3:], 3, axis=0)
    encoders = np.stack([2 * atoms, 4 * turned, unlike])
    mean, encoder = _rivals.mean_of_matched(atoms, np.stack([turned, unlike]), encoders)
    # Half of the angle between them.
    angle = np.arccos(0.8) / 2
    assert np.allclose(mean, np.cos(angle) * atoms + np.sin(angle) * np.eye(4)[3])
    assert np.allclose(encoder, (2 * atoms + 4 * turned[[1, 2, 0]]) / 2)


@pytest.mark.parametrize("cosine", [1.0, 0.8])
def test_frozen_atoms_keep_near_their_start(cosine):
    X = problem().X
    one, other = (
        MFRSparseAutoencoder(
            12, k=2, max_steps=n, batch_size=64, n_witnesses=0, random_state=0
        ).set_params(**_controls.APART)
        for n in (1, 60)
    )
    with _controls.frozen(1.0):
        start = one.fit(X).dictionaries_
    with _controls.frozen(cosine):
        atoms = other.fit(X).dictionaries_
    along = (start * atoms).sum(-1)
    assert along.min() >= cosine - 1e-5
    assert np.allclose(np.linalg.norm(atoms, axis=-1), 1, atol=1e-5)
    # Without the bound, atoms turn further.
    assert (along < cosine + 1e-5).any()


def test_data_without_features_keep_their_moments():
    X = problem().X
    apart, alike = _controls.shuffled(X, 0), _controls.gaussian(X, 0)
    assert np.array_equal(np.sort(apart, axis=0), np.sort(X, axis=0))
    off = np.corrcoef(apart.T)[np.triu_indices(X.shape[1], 1)]
    assert np.abs(off).max() < 4 / len(X) ** 0.5
    assert np.allclose(alike.mean(0), X.mean(0), atol=5 * X.std() / len(X) ** 0.5)
    assert np.allclose(np.cov(alike.T), np.cov(X.T), atol=0.3 * np.cov(X.T).max())


@pytest.mark.usefixtures("small")
def test_defaults_are_compared_with_each_change(table, tmp_path):
    np.save(tmp_path / "rows.npy", problem().X)
    choices = ["--n-components", 12, "--k", 2, "--steps", 20]
    rows = table(defaults, "--data", "rows", "--rows", tmp_path / "rows.npy", *choices)
    columns = rows.pop("setting")
    assert len(rows) == len(defaults.CHANGES)
    assert "recall" not in columns
    found = {tuple(cells) for cells in rows.values()}
    # Each does something, but pushes where nothing is dead so soon.
    assert len(found) >= len(rows) - 3


def test_lengths_of_fits_to_few_rows_are_compared(table, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "LENGTHS", (2, 3))
    np.save(tmp_path / "rows.npy", problem().X)
    rows = table(
        defaults,
        *("--data", "rows", "--rows", tmp_path / "rows.npy", "--n-rows", 20),
        *("--n-components", 12, "--k", 2),
    )
    columns = rows.pop("epochs")
    steps = {epochs: cells[columns.index("steps")] for epochs, cells in rows.items()}
    assert steps == {"2": "2", "3": "3"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["design", *recovery.TABLES])
def test_other_tables_of_recovery(table, name):
    rows = table(recovery, name, "--seeds", 1)
    n_rows = {
        "trust": 1 + 4,  # two rows begin alike
        "ablation": 1 + 17,
        "basin": 1 + 3,
        "controls": 1 + 5,
        "design": 1 + len(recovery.DESIGN),
        "grid": 1 + 12,
        "select": 1 + 6,
        "pursuit": 1 + 2,  # by their noise
        "rivals": 1 + 10,
    }
    assert len(rows) == n_rows[name]


def test_real_data_show_reproducibility(table, monkeypatch):
    X, X_test, _, *budget = problem()
    monkeypatch.setattr(
        recovery, "digits", lambda: _methods.Problem(X, X_test, None, *budget)
    )
    only = "^ours, default"
    rows = table(recovery, "compare", "--data", "digits", "--seeds", 2, "--only", only)
    assert rows["method"][-2:] == ["reproducibility", "one to one"]
    one_way, one_to_one = map(number, rows["ours, default"][-2:])
    assert 0 < one_to_one <= one_way <= 1


@pytest.fixture
def language_model(tmp_path, monkeypatch):
    """Options that name a random one, and random stories."""
    monkeypatch.setattr(_data, "WINDOW", 8)
    for name, value in {"N_STEPS": 20, "BATCH_SIZE": 64, "N_HELD_OUT": 4}.items():
        monkeypatch.setattr(activations, name, value)
    monkeypatch.setattr(activations, "N_REFERENCE", 5)
    config = GPT2Config(
        vocab_size=20, n_positions=8, n_embd=12, n_layer=1, n_head=2, bos_token_id=1
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(2, 20, 800)
    tokens[::40] = _data.STORY_BEGINS
    np.save(tmp_path / "tokens.npy", tokens)
    layer = "transformer.h.0.mlp"
    return [
        *("--model", tmp_path, "--tokens", tmp_path / "tokens.npy"),
        *("--layers", layer),
    ]


def test_activations_compare(table, language_model):
    small = ["--n-components", 16, "--k", 3, "--seeds", 1, "--only", OWN]
    rows = table(activations, "compare", *language_model, *small)
    columns = rows.pop("method")
    assert {"ours, default", "paper, lr=0.01", "PCA, 5 components"} <= set(rows)
    for name in filter(lambda name: not name.startswith("PCA"), rows):
        cells = dict(zip(columns, rows[name], strict=True))
        assert number(cells["lstsq"]) <= number(cells["FVU"]) < 1.5, name
    assert number(rows["PCA, 5 components"][0]) < number(rows["PCA, 3 components"][0])


def test_activations_of_images_are_compared_at_each_depth(table, tmp_path, monkeypatch):
    # Seven by seven places.
    layers = nn.Conv2d(3, 6, 8, stride=32), nn.ReLU()
    monkeypatch.setattr(_efficientnet, "network", lambda cache: nn.Sequential(*layers))
    monkeypatch.setattr(_efficientnet, "N_TRAIN", 3)
    monkeypatch.setattr(_efficientnet, "N_TEST", 1)
    monkeypatch.setattr(_jobs, "IMAGES", _jobs.Budget("images", 8, 2, 5, 2, ("0",)))
    choices = "--model", "efficientnet", "--cache", tmp_path, "--only", "default"
    rows = table(activations, "compare", *choices)
    columns = rows.pop("method")
    assert list(rows) == ["ours, default"]
    shown = rows["ours, default"][columns.index("reproducibility")]
    assert 0 < float(shown.split(" ")[0]) <= 1
    X, X_test = _efficientnet.activations(tmp_path, "0")
    assert X.shape == (6 * 49, 6)
    assert X_test.shape == (2 * 49, 6)
    images, _ = _efficientnet.images()
    expected = nn.Sequential(*layers[:1])(torch.from_numpy(images)).detach()
    np.testing.assert_allclose(
        X, expected.permute(0, 2, 3, 1).reshape(-1, 6), rtol=1e-5, atol=1e-6
    )


def test_jobs_on_a_real_model_are_done_once(table, language_model, monkeypatch):
    _, folder, *_, layer = language_model
    monkeypatch.setattr(_jobs, "QUICK", _jobs.Budget("smollm2", 16, 3, 20, 2, (layer,)))
    monkeypatch.setattr(_jobs, "BATCH_SIZE", 64)
    monkeypatch.setattr(_smollm2, "N_IN_TURN", 10)
    monkeypatch.setattr(_smollm2, "N_HELD_OUT", 2)
    cache = folder / "cache"
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(cache / "model")
    tokens = np.random.default_rng(0).integers(2, 20, (40, 8))
    np.save(cache / "windows.npy", tokens)
    command = ["compare", "--model", "smollm2", "--cache", cache, "--quick"]
    rows = table(activations, *command, "--only", "ours, (alpha|default)")
    columns = rows.pop("method")
    assert list(rows) == ["ours, alpha=0", "ours, default"]
    cells = dict(zip(columns, rows["ours, default"], strict=True))
    assert number(cells["OMP"]) < number(cells["FVU"]) < 1.5
    assert 0 <= number(cells["shared"]) <= number(cells["reproducibility"]) <= 1
    assert {"loss recovered", "one to one", "dead", "hours"} <= set(columns)
    assert number(cells["KL recovered"]) < 1
    assert number(cells["KL recovered, s.e."]) > 0

    def again(*_):
        raise AssertionError("a job was done twice")

    monkeypatch.setattr(_jobs, "measure", again)
    rows_again = table(activations, *command, "--only", "ours, (alpha|default)")
    assert rows_again["ours, default"] == rows["ours, default"]


@pytest.fixture
def texts(tmp_path):
    """Few texts of two intents, and of spam, in the files of the real ones."""
    draw = np.random.default_rng(0)

    def written(words: str) -> str:
        return " ".join(draw.choice(words.split(), size=5))

    kinds = {"weather": "rain sun wind", "play_music": "song band play"}
    pairs = [[written(words), kind] for kind, words in kinds.items() for _ in range(8)]
    clinc = json.dumps({"train": pairs, "test": pairs[::2]})
    (tmp_path / "clinc150.json.gz").write_bytes(gzip.compress(clinc.encode()))
    lines = [
        f"{label}\t{written(words)}"
        for label, words in {"ham": "rain song", "spam": "band wind"}.items()
        for _ in range(10)
    ]
    spam = "\n".join(["Label\tSMS", *lines])
    (tmp_path / "sms_spam.tsv.gz").write_bytes(gzip.compress(spam.encode()))
    return tmp_path


@pytest.fixture
def model_of_words(tmp_path):
    """A folder with a model of six words."""
    words = "[UNK] rain sun wind song band play"
    vocabulary = {word: i for i, word in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.save_pretrained(tmp_path / "model")
    config = GPT2Config(vocab_size=7, n_positions=32, n_embd=12, n_layer=1, n_head=2)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.usefixtures("model_of_words")
def test_probing(table, texts, tmp_path, monkeypatch):
    np.save(tmp_path / "windows.npy", np.random.default_rng(0).integers(1, 7, (60, 8)))
    monkeypatch.setattr(_jobs, "BATCH_SIZE", 64)
    monkeypatch.setattr(_smollm2, "N_IN_TURN", 10)
    monkeypatch.setattr(_smollm2, "N_HELD_OUT", 2)
    clinc, sms = _texts.collections(texts)
    assert list(clinc.tasks) == ["domain", "intent"]
    assert set(clinc.tasks["domain"][0]) == {"utility", "home"}
    monkeypatch.setattr(probing, "collections", lambda folder: [sms])
    options = ["--cache", tmp_path, "--text", texts, "--layer", "transformer.h.0.mlp"]
    size = ["--n-components", 16, "--k", 3, "--steps", 20, "--n-losses", 2]
    only = ["--only", "activations|PCA|random|ours"]
    rows = table(probing, "probe", *options, *size, *only)
    columns = rows.pop("method")
    assert {"activations", "PCA", "random dictionary", "ours, default"} <= set(rows)
    for name, cells in rows.items():
        found = dict(zip(columns, map(number, cells), strict=True))
        assert all(0 <= each <= 1 for each in found.values()), name
    # The words tell, and so do their activations.
    assert number(rows["activations"][-1]) == 1
    rows = table(probing, "decide", *options, *size)
    cells = dict(zip(rows.pop("class"), rows["spam: spam"], strict=True))
    assert number(cells["AUROC"]) > 0.9
    assert "band" in cells["contexts"] or "wind" in cells["contexts"]
    rows = table(probing, "trust", *options, *size)
    columns = rows.pop("atoms that are kept")
    n_atoms = [int(cells[columns.index("atoms")]) for cells in rows.values()]
    everything, trusted, as_many, others, *halves = n_atoms
    assert everything == 16 == trusted + others
    assert as_many == trusted
    assert halves == [8, 8, 8]
    page = ["--out", tmp_path / "page"]
    command = ["probing", "rate", *options, *size, *page]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    probing.main()
    with (tmp_path / "page" / "key.csv").open() as key:
        models_rated = {row["model"] for row in csv.DictReader(key)}
    assert models_rated == {"ours, alpha=0", "ours, default"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["activations", "compare", "--model", "smollm2"], "smollm2 needs --cache"),
        (["probing", "probe", "--cache", "{}", "--text", "{}"], "has no text: make it"),
    ],
)
def test_commands_without_their_folder_say_so(
    command, message, tmp_path, monkeypatch, capsys
):
    words = [word.format(tmp_path) for word in command]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        {"activations": activations, "probing": probing}[words[0]].main()
    assert message in capsys.readouterr().err


def test_attribution_to_atoms_is_what_ablation_does(
    table, model_of_words, tmp_path, monkeypatch
):
    words = np.random.default_rng(0).choice(["rain", "sun", "wind", "song"], 400)
    (tmp_path / "words.txt.gz").write_bytes(gzip.compress(" ".join(words).encode()))
    small = {"WINDOW": 8, "N_FIT": 40, "N_ATTRIBUTED": 3, "N_ATOMS": 16}
    small |= {"K_ATTRIBUTED": 4, "N_STEPS": 20, "SITE": "transformer.h.0.mlp"}
    for name, value in small.items():
        monkeypatch.setattr(others, name, value)
    options = ["--model", model_of_words, "--text", tmp_path / "words.txt.gz"]
    rows = table(others, "attribution", *options)
    columns = rows.pop("context")
    assert len(rows) == 3
    for cells in rows.values():
        found = dict(zip(columns, cells, strict=True))
        assert 1 <= int(found["atoms"]) <= 4
        # Of one layer with a normalisation after it, which atoms hardly move.
        assert number(found["r"]) > 0.9
        assert 0.5 < number(found["slope"]) < 2


def test_saes_of_others_are_opened_coded_and_compared(table, monkeypatch):
    monkeypatch.setattr(others, "in_own_process", lambda f, *given: f(*given))
    monkeypatch.setattr(others, "N_ACTIVE", 4)
    monkeypatch.setattr(others, "N_CALLS", 1)
    size = ["--atoms", 600, "--features", 8]
    rows = table(others, "coding", *size, "--rows", 100)
    found = dict(zip(rows["atoms"], rows["600"], strict=True))
    assert number(found["active"]) == pytest.approx(4, abs=2)
    assert number(found["opening, s"]) < 5
    rows = table(others, "agreement", *size)
    found = dict(zip(rows["atoms"], rows["600"], strict=True))
    assert number(found["compared"]) == 1
    # Blocks of 256 atoms.
    monkeypatch.setattr("skmfr._sae.pairing.COSINES_AT_ONCE", 1)
    rows = table(others, "agreement", *size, "--blocks", 2)
    found = dict(zip(rows["atoms"], rows["600"], strict=True))
    assert number(found["compared"]) == pytest.approx(512 / 600, abs=1e-3)


def test_layouts_are_those_that_are_installed(table, monkeypatch):
    layout = others.LAYOUTS[0]
    missing = layout._replace(package="no-such-package")
    monkeypatch.setattr(others, "LAYOUTS", (missing, layout))
    pytest.importorskip("sae_lens")
    rows = table(others, "layouts")
    (name,) = rows.keys() - {"written by"}
    assert name.startswith("sae-lens ")


def test_extraction_is_timed(table, language_model, monkeypatch):
    monkeypatch.setattr(activations, "N_TIMED", 64)
    monkeypatch.setattr(activations, "N_REPEATS", 1)
    rows = table(activations, "extraction", *language_model)
    *_, ratio = rows["transformer.h.0.mlp"]
    assert number(ratio) > 0


def test_speed(table, monkeypatch):
    monkeypatch.setattr(speed, "N_TURNS", 1)
    monkeypatch.setattr(speed, "in_own_process", lambda work, *given: work(*given))
    size = ["--size", 32, 12, 24, 3]
    rows = table(
        speed, "compare", *size, "--only", "3 SAE, alpha|out Numba|paper, 3|Mini"
    )
    assert len(rows) == 1 + 7
    # Of one SAE and of three, samples a second.
    _, _, rate, of_all, _ = rows["ours, 3 SAE, alpha=0"]
    assert number(of_all) == pytest.approx(3 * number(rate), abs=2)
    # Of batches and of a single row.
    # Of three algorithms, two of them also without signs, and of scikit-learn.
    assert len(table(speed, "transform", *size)) == 1 + 2
    monkeypatch.setattr(speed, "SIZES", (None, speed.Size(32, 12, 24, 3)))
    monkeypatch.setattr(speed, "GROWTH", {"n_saes": (2, 3), "k": (1, 2)})
    assert len(table(speed, "growth")) == 1 + 2


def test_speed_on_a_gpu_is_tried_without_one(table, monkeypatch):
    monkeypatch.setattr(speed_gpu.Timeline, "n_steps", 6)
    monkeypatch.setattr(speed_gpu, "N_WARM", 2)
    monkeypatch.setattr(speed_gpu, "COPIED_BYTES", 1 << 20)
    precision = torch.get_float32_matmul_precision()
    size = ["--size", 32, 12, 24, 3]
    rows = table(speed_gpu, "--device", "cpu", *size, "--only", "ours")
    assert torch.get_float32_matmul_precision() == precision
    assert len(rows) == 1 + 4
    _, rate, of_all, *_ = rows["ours, 3 SAE, alpha=1, bfloat16"]
    assert number(of_all) == pytest.approx(3 * number(rate), abs=2)


def test_reappearance(table, monkeypatch):
    small = problem().X[:90]
    source = reappearance.source_of(small, 3, n_components=12, k=2, n_steps=5)
    monkeypatch.setattr(reappearance, "SOURCES", {"small": lambda n_fits: source})
    rows = table(reappearance)
    cells = dict(zip(rows.pop("data"), rows["small"], strict=True))
    assert cells["atoms"] == "36"
    fits = [
        MFRSparseAutoencoder(
            12, k=2, max_steps=5, batch_size=128, random_state=seed
        ).fit(part)
        for seed, part in enumerate(source.deals[0])
    ]
    cosines = [
        one.components_ @ other.components_.T
        for one in fits
        for other in fits
        if one is not other
    ]
    returns = np.mean(np.max(cosines, axis=2) >= 0.8)
    assert number(cells["return"]) == pytest.approx(returns, abs=5e-4)
    assert 0 < number(cells["mean"]) < 1


def test_trusted_atoms_that_are_no_feature_are_counted(table, monkeypatch):
    source = reappearance.superposed(2, n_rows=2000)._replace(n_steps=150)
    # Half of the features are said to be unknown.
    source = source._replace(truth=source.truth[::2])
    monkeypatch.setattr(reappearance, "SOURCES", {"small": lambda n_fits: source})
    rows = table(reappearance)
    cells = dict(zip(rows["data"], rows["small"], strict=True))
    fits = [
        reappearance.fitted(source, part, seed)
        for seed, part in enumerate(source.deals[0])
    ]
    trusted = np.concatenate([fit.components_[fit.trusted_] for fit in fits])
    no_feature = (trusted @ source.truth.T).max(1) < 0.9
    assert 0.2 < no_feature.mean() < 0.8
    assert number(cells["no feature"]) == pytest.approx(no_feature.mean(), abs=5e-4)


def test_cost_of_witnesses(table, monkeypatch):
    monkeypatch.setattr(reappearance, "SIZES", ((4, 6, 2),))
    rows = table(reappearance, "--cost")
    assert len(rows) == 2  # of one size, and the header
    assert "beside the group alone" in rows["size"]


def test_use_compares_atoms_that_are_active_as_often():
    rng = np.random.default_rng(0)
    codes = sparse.csr_array(rng.random((50, 40)) < rng.random(40))
    # Each atom is worth its probability to return.
    value = rng.random(40)
    case = use.Case(
        Bunch(trusted_=value > 0.8, reappearance_=value),
        _kept.usage_of(codes),
        lambda atoms: dict.fromkeys(["FVU", *_jobs.LOSSES], 1 - value[atoms].sum()),
    )
    rows = {row.pop("atoms that are kept"): row for row in use.kept([case, case])}
    likelier = rows["of each pair the likelier to return"]
    less_likely = rows["of each pair the less likely"]
    assert likelier["atoms"]["values"] == less_likely["atoms"]["values"] == [20, 20]
    both = likelier["FVU"]["values"][0] + less_likely["FVU"]["values"][0]
    assert both == pytest.approx(2 - value.sum())
    active = likelier["active"]["values"][0] - less_likely["active"]["values"][0]
    # Of neighbours in the order of their usage.
    assert abs(active) <= np.ptp(codes.mean(axis=0))
    (tenths,) = use.left_out([case])
    for tenth in tenths:
        assert tenth["FVU added"] == pytest.approx(4 * tenth["reappearance"])
        for name in use.LOST:
            assert tenth[name] == -tenth["FVU added"]
    found = use.correlations([tenths, tenths])
    assert found["FVU added"]["values"] == pytest.approx([1, 1])
    for name in use.LOST:
        assert found[name]["values"] == pytest.approx([-1, -1])


def test_calibration_error_is_that_of_binned_frequencies():
    # Half of the atoms said .25 return, all of those said .95.
    probability = np.repeat([0.25, 0.95], [4, 6])
    returns = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    found = reappearance.calibration_error(probability, returns)
    assert found == pytest.approx((4 * 0.25 + 6 * 0.05) / 10)
    many = np.tile(probability, 10_000)
    assert reappearance.chance_error(many, n_draws=3) < 0.01


def test_only_floats_that_leave_a_device_count_as_departures():
    with gpu_check.Departures("cpu") as departures:
        torch.ones(2, 3).to("meta")
        torch.empty(5, device="meta").copy_(torch.ones(5))
        torch.ones(7, dtype=torch.int64).to("meta")
        torch.ones(11).to(torch.float64)
        torch.empty(13, device="meta").clone()
    assert departures.sizes == [6, 5]


def broken(scale, out):
    raise AssertionError("as it should")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_check_of_a_gpu_is_run_dry_and_goes_on_after_a_failure(monkeypatch, tmp_path):
    pytest.importorskip("triton")
    parts = {
        "late": gpu_check.Part(broken, 0),
        "broken": gpu_check.Part(broken, 9),
        **{name: gpu_check.PARTS[name] for name in ("device", "sparsify")},
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    # Triton interprets some twenty rows a second.
    scale = gpu_check.DRY._replace(large=speed.Size(2, 4, 8, 1))
    monkeypatch.setattr(gpu_check, "DRY", scale)
    apart = gpu_check.run_apart

    def run_part(*given):
        # In this process, where nothing has to be imported again.
        return apart(*given) if given[0] == "late" else gpu_check.run_here(*given)

    monkeypatch.setattr(gpu_check, "run_apart", run_part)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--dry-run", "--out", str(tmp_path)])
    assert gpu_check.main() == 1
    found = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert list(found) == list(parts)
    assert found["late"] | {"seconds": 0} == {
        "status": "failed",
        "why": "took more than 0 s",
        "seconds": 0,
    }
    assert found["broken"] == {
        "status": "failed",
        "why": "AssertionError: as it should",
    }
    assert found["device"]["status"] == "passed"
    assert found["sparsify"]["status"] == "skipped"


def test_memory_is_measured_in_another_process():
    assert memory.in_own_process(os.getpid) != os.getpid()


def test_memory(table, monkeypatch):
    monkeypatch.setattr(memory, "in_own_process", lambda work, *given: work(*given))
    small = ["--gigabytes", 0.001, "--max-steps", 3, "--storage", "shards"]
    before, at_most, _ = table(memory, *small)["0.001"]
    assert 0 < number(before) <= number(at_most)


def test_steps_of_load(table, monkeypatch):
    monkeypatch.setattr(load, "COUNTERS", [])
    rows = table(load, "steps", "--steps", 40)
    assert rows["one fit"][0] == "40"
    assert rows["calls of partial_fit"][0] == "2"


def test_what_halving_and_delaying_leaves_of_the_brain():
    names = ["Fz", "Cz", "Pz", "P3", "P4", "O1", "O2", "Fp1"]
    clean = np.random.default_rng(0).standard_normal((40, 8, 128)).astype(np.float32)
    noisy = clean + 30
    recording = _eeg_kept.partly_noisy(clean, noisy, names, 0)
    has = recording.has_artefact
    np.testing.assert_array_equal(recording.noisy[has], noisy[has])
    np.testing.assert_array_equal(recording.noisy[~has], clean[~has])
    row = _eeg_kept.measure(lambda X: 0.5 * np.roll(X, 2, axis=-1), recording, 128.0)
    assert row["P3 kept"] == pytest.approx(0.5)
    assert row["P3 later, ms"] == pytest.approx(2000 / 128)
    row = _eeg_kept.measure(lambda X: 0.5 * X, recording, 128.0)
    assert row["error, no artefact"] == row["error, all clean"] == pytest.approx(0.5)
    assert row["alpha kept"] == row["theta kept"] == pytest.approx(0.25)
    rms = np.sqrt(np.square(clean[has]).mean((1, 2)))
    errors = np.sqrt(np.square(0.5 * clean[has] - 15).mean((1, 2))) / rms
    assert row["error, artefact"] == pytest.approx(errors.mean(), rel=1e-4)


def test_peers_without_clean_signals_get_epochs_and_give_them_back():
    """A regressor that is the artefact and no brain takes all of the artefact."""
    names = ["Fp1", "Fp2", "Cz", "Oz"]
    draw = np.random.default_rng(0)
    brain = 10 * draw.standard_normal((30, 4, 64)).astype(np.float32)
    brain[:, :2] = 0
    brain[:, 3] = -brain[:, 2]
    ocular = 100 * draw.standard_normal((30, 2, 64)).astype(np.float32)
    ocular -= ocular.mean((0, 2), keepdims=True)
    mixed = brain + np.einsum(
        "ij,njt->nit", np.float32([[1, 0], [0, 1], [1, 0], [0, 1]]), ocular
    )
    for made in (_eeg_peers.as_epochs, _eeg_peers.as_raw):
        np.testing.assert_allclose(
            _eeg_peers.back(made(mixed, names), mixed), mixed, rtol=1e-5
        )
    mixed -= mixed.mean(1, keepdims=True)
    before = mixed.copy()
    cleaned = _eeg_peers.eog_regression(mixed, names, names[:2], 0)
    np.testing.assert_array_equal(mixed, before)
    assert cleaned.shape == mixed.shape
    assert np.square(cleaned - brain).mean() < 0.01 * np.square(brain).mean()


def test_errors_of_added_artefacts_are_relative_and_where_they_are():
    clean = np.random.default_rng(0).standard_normal((2, 10))
    there = np.arange(10) < 4
    made = _eeg_added.Added(clean, clean, there, np.zeros(10), ["a", "b"])
    cleaned = clean * np.where(there, 1.5, 0.9)
    assert _eeg_added.error(made, cleaned) == pytest.approx(0.5)
    elsewhere = made._replace(there=~there)
    assert _eeg_added.error(elsewhere, cleaned) == pytest.approx(0.1)
    assert _eeg_added.error(made._replace(there=there & False), cleaned) is None


def test_added_heartbeats_have_the_ecg_and_their_size(monkeypatch):
    """Falling from right to left and from front to back, in average reference."""
    draw = np.random.default_rng(0)
    names, ecg = ["Fp2", "F4", "Cz", "C3", "O1"], draw.standard_normal(2000)
    clean = draw.standard_normal((5, 2000))
    monkeypatch.setattr(_eeg_added, "at_rest", lambda path: (clean, ecg, names))
    made = _eeg_added.with_heartbeats(None)
    beats = made.noisy - clean
    assert np.linalg.matrix_rank(beats, tol=1e-9) == 1
    assert abs(np.corrcoef(beats[0], ecg)[0, 1]) == pytest.approx(1)
    np.testing.assert_allclose(beats.mean(0), 0, atol=1e-12)
    largest = np.quantile(np.abs(beats), 0.99, axis=1).max()
    assert largest == pytest.approx(_eeg_added.HEARTBEAT)
    assert beats[0] @ beats[4] < 0


def test_alpha_near_a_blink_does_not_count():
    alpha = np.sin(2 * np.pi * 10 * np.arange(10 * 128) / 128)
    peaks = np.array([3 * 128 + 20, 7 * 128 + 64])
    less = alpha.copy()
    less[2 * 128 : 4 * 128] = less[7 * 128 : 8 * 128] = 0.0
    # The first blink reaches into the second before it.
    assert _eeg_kept.alpha_kept(alpha, less, peaks, 128.0) == pytest.approx(1)
    less[4 * 128 : 5 * 128] *= 0.5
    kept = _eeg_kept.alpha_kept(alpha, less, peaks, 128.0)
    assert kept == pytest.approx(1 - 0.75 / 7)


def test_eeg(table, tmp_path, monkeypatch):
    monkeypatch.setattr(_eeg_methods, "SFREQ", 64.0)
    sae = MFRSparseAutoencoder(8, k=2, max_steps=5)
    monkeypatch.setitem(eeg.SINGLE, "ours", _eeg_methods.supervised(sae=sae))
    draw = np.random.default_rng(0)
    (tmp_path / "semisim").mkdir()
    for name in ("clean_eeg", "eog", "emg"):
        groups = np.repeat(np.arange(5), 4)
        np.savez(
            tmp_path / "semisim" / f"{name}_epochs.npz",
            X=draw.standard_normal((20, 64)).astype(np.float32),
            subject=groups,
            run=groups,
        )
    only = "^(nothing|zeros|ridge|ours)$"
    for artefact in ("EOG", "EMG"):
        given = ["--data", tmp_path, "--artefacts", artefact, "--seeds", 1]
        rows = table(eeg, "single", *given, "--only", only)
        assert set(rows) == {"method", "nothing", "zeros", "ridge", "ours"}
        # The error of zeros is all of the signal.
        assert number(rows["zeros"][0]) == 1
