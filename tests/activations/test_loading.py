import os

import joblib
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from transformers import BertConfig, BertModel, BertTokenizer

from skmfr.activations import ActivationExtractor, steer
from skmfr.activations._loading import files_of, load_tokenizer

LAYER = "encoder.layer.0.output"
TOKENS = np.arange(24).reshape(6, 4)


def bert(seed: int) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    return BertModel(config).eval()


@pytest.fixture(scope="module")
def models() -> list[BertModel]:
    """Of the same shapes: their files have the same sizes."""
    return [bert(0), bert(1)]


def truths(models) -> list[np.ndarray]:
    return [ActivationExtractor(model, LAYER).transform(TOKENS) for model in models]


@pytest.mark.parametrize("memory", [False, True])
def test_another_model_in_the_folder_gives_its_activations(models, tmp_path, memory):
    folder, cache = tmp_path / "model", str(tmp_path / "cache") if memory else None
    extractor = ActivationExtractor(folder, LAYER, memory=cache)
    for model, truth in zip(models, truths(models), strict=True):
        model.save_pretrained(folder)
        np.testing.assert_allclose(extractor.transform(TOKENS), truth, atol=1e-6)


def test_a_file_of_activations_of_the_model_before_is_not_read(models, tmp_path):
    folder = tmp_path / "model"
    extractor = ActivationExtractor(folder, LAYER, out=tmp_path / "rows.npy")
    models[0].save_pretrained(folder)
    before = np.array(extractor.transform(TOKENS))
    # The same weights, in other files, are the same model.
    models[0].save_pretrained(folder)
    assert np.array_equal(extractor.transform(TOKENS), before)
    models[1].save_pretrained(folder)
    with pytest.raises(ValueError, match="other inputs"):
        extractor.transform(TOKENS)


def test_a_pipeline_that_caches_sees_another_model_in_the_folder(models, tmp_path):
    pipeline = make_pipeline(
        ActivationExtractor(tmp_path / "model", LAYER),
        PCA(2),
        memory=str(tmp_path / "cache"),
    )
    for model, truth in zip(models, truths(models), strict=True):
        model.save_pretrained(tmp_path / "model")
        np.testing.assert_allclose(
            abs(pipeline.fit_transform(TOKENS)),
            abs(PCA(2).fit_transform(truth)),
            atol=1e-5,
        )


def test_a_steered_folder_is_not_mistaken_for_what_it_was(models, tmp_path):
    models[0].save_pretrained(tmp_path / "model")
    extractor = ActivationExtractor(
        tmp_path / "model", LAYER, memory=str(tmp_path / "cache")
    )
    plain = extractor.transform(TOKENS)
    pca = PCA(2).fit(plain)
    with steer(tmp_path / "model", LAYER, pca, 0, 3.0, how="scale"):
        assert np.abs(extractor.transform(TOKENS) - plain).max() > 0.1
    assert np.array_equal(extractor.transform(TOKENS), plain)


def test_files_are_told_apart_whatever_their_dates(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    date, known = file.stat().st_mtime_ns, files_of(str(tmp_path))
    assert files_of(str(tmp_path)) == known
    file.write_bytes(b"two")
    os.utime(file, ns=(date, date))
    assert files_of(str(tmp_path)) != known
    assert files_of(str(tmp_path / "of-a-hub")) == ()


def test_a_tokenizer_is_loaded_again_when_its_files_change(tmp_path):
    for words in [["a", "b"], ["b", "a"]]:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
        tokenizer.save_pretrained(tmp_path)
        ids = load_tokenizer(str(tmp_path))("a")["input_ids"]
        assert ids[1] == tokenizer.convert_tokens_to_ids("a") == words.index("a")


def test_an_extractor_of_a_folder_is_hashed_with_its_files(models, tmp_path):
    extractor = ActivationExtractor(str(tmp_path), LAYER)
    models[0].save_pretrained(tmp_path)
    known = joblib.hash(extractor)
    assert joblib.hash(extractor) == known
    models[1].save_pretrained(tmp_path)
    assert joblib.hash(extractor) != known
