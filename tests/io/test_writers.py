"""What goes along with weights: agreement, model cards, features for Neuronpedia."""

import json

import numpy as np
import pytest
from layouts import LAYOUTS, M
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.activations import LogitEffects
from skmfr.io import (
    from_sae_lens,
    from_sparsify,
    load,
    save,
    to_huggingface_folder,
    to_neuronpedia,
    to_sae_lens,
    to_sparsify,
)
from skmfr.metrics import fvu, l0


@pytest.mark.parametrize(
    ("write", "read"), [(to_sae_lens, from_sae_lens), (to_sparsify, from_sparsify)]
)
def test_agreement_and_trust_go_along(tmp_path, make_sae, write, read):
    sae = make_sae()
    write(sae, tmp_path)
    imported = read(tmp_path)
    np.testing.assert_array_equal(imported.feature_agreement_, sae.feature_agreement_)
    np.testing.assert_array_equal(imported.trusted_, sae.trusted_)
    np.testing.assert_array_equal(imported.reappearance_, sae.reappearance_)
    config = json.loads((tmp_path / "cfg.json").read_text())
    told = config.get("metadata", config)["skmfr_agreement"]
    assert told["mean"] == pytest.approx(sae.feature_agreement_.mean())
    assert told["null"] == sae.agreement_null_
    assert told["trusted_share"] == sae.trusted_.mean()
    assert told["n_witnesses"] == 1
    assert told["reappearance"] == pytest.approx(sae.reappearance_.mean())
    # An SAE that has none takes no other's.
    write(make_sae(n_saes=1, n_witnesses=0), tmp_path)
    assert np.isnan(read(tmp_path).feature_agreement_).all()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"feature_agreement": np.zeros(3), "trusted": np.zeros(3, bool)},
            "has 3 atoms",
        ),
        (
            {"feature_agreement": np.full(24, 2.0), "trusted": np.zeros(24, bool)},
            "no cosines",
        ),
        ({"feature_agreement": np.zeros(24)}, "lacks trusted"),
        (
            {
                "feature_agreement": np.zeros(24),
                "trusted": np.zeros(24, bool),
                "reappearance": np.full(24, 1.5),
            },
            "no probabilities",
        ),
    ],
)
def test_agreement_of_other_atoms_is_refused(tmp_path, make_sae, arrays, message):
    to_sae_lens(make_sae(), tmp_path)
    save_file(arrays, tmp_path / "agreement.safetensors")
    with pytest.raises(ValueError, match=message):
        from_sae_lens(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"n_witnesses": 2}, (2, False)),
        ({"n_witnesses": 0}, (0, True)),
        ({"n_witnesses": 0, "alpha": 0.0}, (0, False)),
    ],
)
def test_files_tell_with_what_atoms_agree(
    tmp_path, make_sae, make_samples, parameters, expected
):
    def told(sae, write=to_sae_lens):
        write(sae, tmp_path / "out")
        config = json.loads((tmp_path / "out" / "cfg.json").read_text())
        known = config.get("metadata", config)["skmfr_agreement"]
        return known["n_witnesses"], known["under_penalty"]

    sae = make_sae(**parameters)
    assert told(sae) == expected
    again = from_sae_lens(tmp_path / "out")
    assert told(again, to_sparsify) == expected
    assert told(from_sparsify(tmp_path / "out")) == expected
    save(sae, tmp_path / "alone", training_state=False)
    assert told(load(tmp_path / "alone")) == expected
    save(again, tmp_path / "again")
    assert told(load(tmp_path / "again")) == expected
    # What is fitted since has other witnesses.
    again.set_params(n_witnesses=1, warm_start=True, max_steps=5, random_state=0)
    assert told(again.fit(make_samples(300) + 3)) == (1, False)
    save(again, tmp_path / "again", training_state=False)
    assert told(load(tmp_path / "again")) == (1, False)


def told_on_card(sae, folder, X):
    """What a model card says of agreement."""
    to_huggingface_folder(sae, folder, X, data="Noise.")
    card = (folder / "README.md").read_text()
    return card.partition("## Agreement")[2].partition("## Parameters")[0]


def test_model_card_says_if_agreement_is_no_evidence(tmp_path, make_sae, make_samples):
    X, evidence = make_samples() + 3, "likely to be in the data"
    for parameters, n_witnesses in [({}, 1), ({"n_witnesses": 0, "alpha": 0.0}, 0)]:
        card = told_on_card(make_sae(**parameters), tmp_path, X)
        assert f"| Witnesses | {n_witnesses} |" in card
        assert evidence in card
    card = told_on_card(make_sae(n_witnesses=0), tmp_path, X)
    again = told_on_card(from_sae_lens(tmp_path), tmp_path, X)
    for text in (card, again):
        assert "| Witnesses | 0 |" in text
        assert "does not show that an atom is in the data" in text
        assert evidence not in text
        # There is no probability in the file.
        assert "another fit" not in text


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, None),
        # Builds that counted arrays wrote 0 where they knew nothing.
        ({"n_witnesses": 0}, None),
        ({"n_witnesses": 2}, 2),
    ],
)
def test_what_is_not_known_of_agreement_is_not_told(
    tmp_path, make_sae, make_samples, metadata, expected
):
    to_sae_lens(make_sae(), tmp_path)
    path = tmp_path / "agreement.safetensors"
    metadata = None if metadata is None else {"skmfr": json.dumps(metadata)}
    save_file(load_file(path), path, metadata)
    card = told_on_card(from_sae_lens(tmp_path), tmp_path, make_samples() + 3)
    assert ("| Witnesses |" in card) == (expected is not None)
    assert ("likely to be in the data" in card) == (expected is not None)


@pytest.mark.parametrize("summary", ["[]", "{", '{"n_witnesses": -1}'])
def test_a_damaged_summary_of_agreement_is_refused(tmp_path, make_sae, summary):
    to_sae_lens(make_sae(), tmp_path)
    path = tmp_path / "agreement.safetensors"
    save_file(load_file(path), path, {"skmfr": summary})
    with pytest.raises(ValueError, match=tmp_path.name):
        from_sae_lens(tmp_path)


def test_agreement_that_was_assigned_is_with_other_dictionaries(tmp_path, make_samples):
    next(each for key, each in LAYOUTS.items() if key.startswith("jumprelu"))(
        tmp_path, np.random.default_rng(0)
    )
    sae = from_sae_lens(tmp_path)
    sae.feature_agreement_ = np.full(M, 0.5)
    assert "with those of other dictionaries" in told_on_card(
        sae, tmp_path, make_samples()
    )
    again = from_sae_lens(tmp_path)
    assert type(again) is PretrainedSAE
    assert clone(again)._evidence_ == (None, False)
    save(again, tmp_path / "saved")
    assert load(tmp_path / "saved")._evidence_ == (None, False)


def test_saes_of_others_are_written_too(tmp_path, make_samples):
    X = make_samples()
    for name in (
        "jumprelu",
        "gated",
        "standard",
        "Gemma Scope",
        "sparsify of different",
    ):
        layout = next(each for key, each in LAYOUTS.items() if key.startswith(name))
        (tmp_path / name).mkdir()
        layout(tmp_path / name, np.random.default_rng(0))
        read = from_sparsify if name.startswith("sparsify") else from_sae_lens
        sae = read(tmp_path / name)
        to_sae_lens(sae, tmp_path / "again")
        again = from_sae_lens(tmp_path / "again")
        np.testing.assert_allclose(again.transform(X), sae.transform(X), atol=1e-6)


def test_model_card_has_the_numbers_of_the_fit(tmp_path, make_sae, make_samples):
    sae, X = make_sae(), make_samples() + 3
    folder = tmp_path / "card"
    to_huggingface_folder(
        sae, folder, X, data="Noise | more.", license="mit", model_name="gpt2"
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "agreement.png",
        "agreement.safetensors",
        "cfg.json",
        "sae_weights.safetensors",
    ]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert 'license: "mit"' in card
    assert "# card\n" in card
    assert "\n## Data\n\nNoise | more.\n" in card
    assert "| Model | gpt2 |" in card
    assert f"(FVU) | {fvu(X, sae.reconstruct(X)):.4g} |" in card
    codes = sae.transform(X)
    assert f"(L0) | {l0(codes):.4g} |" in card
    assert f"never active | {(codes == 0).all(0).mean():.1%} |" in card
    assert f"(cosine) | {sae.feature_agreement_.mean():.4g} |" in card
    assert f"another fit | {sae.reappearance_.mean():.4g} |" in card
    assert f"| Trusted atoms | {sae.trusted_.mean():.1%} |" in card
    assert "| `alpha` | 0.1 |" in card
    assert f"| Steps | {sae.n_steps_} |" in card
    assert "checkpoint" not in card
    assert (folder / "agreement.png").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_allclose(
        from_sae_lens(folder).transform(X), sae.transform(X), atol=1e-5
    )
    # Without agreement there is nothing to draw, and no picture of another SAE.
    alone = make_sae(n_saes=1, n_witnesses=0)
    to_huggingface_folder(alone, folder, X, data="Noise.")
    assert not (folder / "agreement.png").exists()
    assert "Not measured." in (folder / "README.md").read_text()
    with pytest.raises(TypeError, match="data must be text"):
        to_huggingface_folder(alone, folder, X, data=None)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="features"):
        to_huggingface_folder(sae, folder, X[:, :-1], data="Too narrow.")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_model_card_counts_the_samples_of_shards(tmp_path, make_sae, make_samples):
    X = make_samples(300) + 3
    shards = [tmp_path / f"{i}.npy" for i in range(2)]
    for path, rows in zip(shards, np.split(X, 2), strict=True):
        np.save(path, rows)
    sae = make_sae()
    to_huggingface_folder(sae, tmp_path / "card", shards, data="Noise.")
    to_huggingface_folder(sae, tmp_path / "array" / "card", X, data="Noise.")
    card = (tmp_path / "card" / "README.md").read_text()
    assert "## On 300 samples" in card
    assert card == (tmp_path / "array" / "card" / "README.md").read_text()


# Files of "batchtopk" have no limit to the active atoms of a sample, and say so.
@pytest.mark.filterwarnings("ignore:sae activates at most")
@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
@pytest.mark.parametrize("algorithm", ["encoder", "lstsq", "omp"])
@pytest.mark.parametrize("positive", [False, True])
def test_model_card_has_the_quality_that_its_files_give(
    tmp_path, make_sae, make_samples, activation, algorithm, positive
):
    X = make_samples() + 3
    sae = make_sae(activation=activation).set_params(
        k=np.int64(4), transform_algorithm=algorithm, positive_code=positive
    )
    to_huggingface_folder(sae, tmp_path, X, data="Noise.")
    card = (tmp_path / "README.md").read_text()
    again = from_sae_lens(tmp_path)
    by_files, by_sae = (f"(FVU) | {fvu(X, each.reconstruct(X)):.4g} |"
                        for each in (again, sae))  # fmt: skip
    assert card.index("by | encoder") < card.index(by_files)
    if algorithm == "encoder":
        assert card.count("(FVU)") == 1
        return
    assert by_files != by_sae
    assert card.index(by_files) < card.index(f"by | {algorithm}") < card.index(by_sae)
    # The lines for use give the other.
    code = card.partition("```python\n")[2].partition("```")[0]
    used = {"X": X}
    exec(code.replace("FOLDER", str(tmp_path)), used)
    np.testing.assert_allclose(used["codes"], sae.transform(X), atol=1e-4)
    assert sae.transform_algorithm == algorithm


class Tokenizer:
    def decode(self, ids):
        return "".join(f"<{each}>" for each in ids)


NAMES = {"model_name": "gpt2-small", "layer": 3, "sae_set": "res-mfr"}


def test_features_are_what_the_codes_say(tmp_path, make_sae, make_samples):
    sae = make_sae()
    codes = sae.transform(make_samples(60) + 3)
    tokens = np.arange(60).reshape(12, 5)
    draw = np.random.default_rng(0)
    ids, logits = draw.integers(60, size=(2, M, 3)), draw.standard_normal((2, M, 3))
    effects = LogitEffects(ids[0], logits[0], ids[1], logits[1])
    path = tmp_path / "batch-0.json"
    atoms = np.flatnonzero((codes > 0).any(0))[:2]
    to_neuronpedia(
        sae,
        path,
        atoms,
        tokens,
        sparse.csr_array(codes),
        **NAMES,
        tokenizer=Tokenizer(),
        effects=effects,
        n_contexts=2,
    )
    batch = json.loads(path.read_text())
    assert batch["model_id"] == "gpt2-small"
    assert batch["layer"] == 3
    for feature, atom in zip(batch["features"], atoms, strict=True):
        at_tokens = codes[:, atom].reshape(12, 5)
        assert feature["feature_index"] == atom
        assert feature["frac_nonzero"] == (at_tokens > 0).mean()
        heights, edges = np.histogram(at_tokens[at_tokens > 0], 50)
        assert feature["freq_hist_data_bar_heights"] == heights.tolist()
        centres = edges[:-1] + np.diff(edges) / 2
        bars = feature["freq_hist_data_bar_values"]
        np.testing.assert_allclose(bars, centres, rtol=1e-5)
        best = np.argsort(-at_tokens.max(1))
        assert len(feature["activations"]) == min(2, (at_tokens.max(1) > 0).sum())
        first = feature["activations"][0]
        np.testing.assert_allclose(first["values"], at_tokens[best[0]], rtol=1e-5)
        assert first["qualifying_token_index"] == at_tokens[best[0]].argmax()
        assert first["tokens"] == [f"<{each}>" for each in tokens[best[0]]]
        assert feature["pos_str"] == [f"<{each}>" for each in ids[0, atom]]
        np.testing.assert_allclose(feature["neg_values"], logits[1, atom], rtol=1e-5)
        assert feature["skmfr_agreement"] == sae.feature_agreement_[atom]
        assert feature["skmfr_trusted"] == sae.trusted_[atom]
        assert feature["skmfr_reappearance"] == sae.reappearance_[atom]


def test_features_need_a_fit(tmp_path):
    given = tmp_path / "file", [0], [[1]], [[1]]
    names = {"model_name": "m", "layer": 0, "sae_set": "s"}
    with pytest.raises(NotFittedError):
        to_neuronpedia(MFRSparseAutoencoder(), *given, **names)


def test_features_of_nothing_are_empty_and_what_does_not_fit_is_refused(
    tmp_path, make_sae
):
    sae, tokens, path = make_sae(), np.zeros((3, 4), int), tmp_path / "f.json"
    nothing = np.zeros((12, M))
    to_neuronpedia(sae, path, 0, tokens, nothing, **NAMES)
    (feature,) = json.loads(path.read_text())["features"]
    to_neuronpedia(sae, path, np.arange(M) == 5, tokens, nothing, **NAMES)
    (masked,) = json.loads(path.read_text())["features"]
    assert (feature["feature_index"], masked["feature_index"]) == (0, 5)
    assert feature["frac_nonzero"] == 0
    assert feature["activations"] == feature["freq_hist_data_bar_values"] == []
    for change, message in [
        ({"atoms": [M]}, "atoms must be numbers from 0 to 23"),
        ({"tokens": np.zeros(12, int)}, r"tokens must be ids \(n_inputs, n_tokens\)"),
        ({"codes": nothing[1:]}, r"codes has shape \(11, 24\), expected \(12, 24\)"),
    ]:
        arguments = {"atoms": 0, "tokens": tokens, "codes": nothing} | change
        with pytest.raises(ValueError, match=message):
            to_neuronpedia(sae, path, **arguments, **NAMES)


@pytest.mark.parametrize("n_saes", [1, 2])
def test_side_file_has_what_is_known(tmp_path, make_sae, n_saes):
    to_sae_lens(make_sae(n_saes=n_saes), tmp_path)
    arrays = load_file(tmp_path / "agreement.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "feature_agreement": (M,),
        "trusted": (M,),
        # One SAE and its witness are too few to tell how likely atoms return.
        **({"reappearance": (M,)} if n_saes == 2 else {}),
    }
    imported = from_sae_lens(tmp_path)
    assert np.isnan(imported.reappearance_).all() == (n_saes == 1)
