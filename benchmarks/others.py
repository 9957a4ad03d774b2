"""SAEs of other packages: whether they open right, and how fast they are used.

``python -m benchmarks.others layouts`` has SAELens, sparsify and dictionary_learning,
where they are installed, write a small SAE of each kind, and compares their codes and
reconstructions with ours.

``coding`` opens a JumpReLU SAE of 65,536 atoms and 768 features, as SAELens writes it,
and codes 10,000 rows with sparse output; after each call it times the bare product of
the same rows and the encoder, block by block.  *Share* is that of the product's rate.

``agreement`` compares two dictionaries in folders, as SAELens writes them, in a new
process.  ``--atoms 131072 --features 2304 --blocks 8`` ends after so many blocks
and says how long all would take at that rate; memory is then as full as it gets.

``attribution --model DIR --text FILE`` tests gradient times code for the atoms of
a real language model: it ablates each atom that is active at the last token of a
context and compares the change of the logit with the attribution.
"""

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter, process_time
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._layouts import LAYOUTS, N_FEATURES
from benchmarks._results import Command, Row
from benchmarks.memory import PeakMemory, in_own_process
from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.activations import ActivationExtractor
from skmfr.agreement import compare
from skmfr.agreement._comparing import Progress
from skmfr.io import from_sae_lens, to_sae_lens
from skmfr.io._opening import open_sae
from skmfr.io._weights import Weights, estimator_of

# Number of timed calls of each kind, after a warm-up.
N_CALLS = 3
# Active atoms of a row of the JumpReLU SAE, on average.
N_ACTIVE = 64
# Tokens of a context, contexts that the SAE is fitted to, and later ones to attribute.
WINDOW, N_FIT, N_ATTRIBUTED = 32, 192, 6
SITE, N_ATOMS, K_ATTRIBUTED, N_STEPS = "model.layers.15.mlp", 1152, 16, 150
DIGITS: dict[str, int | None] = {
    "active": 1,
    "share": 2,
    "memory, GiB": 2,
    "opening, s": 1,
    "coding, s": 1,
    "product, s": 1,
    "compared": 3,
    "reading, s": 1,
    "CPU, s": 0,
    "comparing, s": 1,
    "all, s": 0,
    "private, GiB": 2,
    "resident, GiB": 2,
}


def layouts() -> Iterator[Row]:
    """A row for each kind, none for packages that are missing."""
    draw = torch.Generator().manual_seed(1)
    X = torch.randn(200, N_FEATURES, generator=draw) + 1
    for package, kind, write in LAYOUTS:
        try:
            known = version(package)
        except PackageNotFoundError:
            continue
        with tempfile.TemporaryDirectory() as folder:
            with torch.no_grad():
                codes, reconstructed = (each.numpy() for each in write(Path(folder))(X))
            sae = open_sae(folder)
        yield {
            "written by": f"{package} {known}",
            "kind": kind,
            "becomes": type(sae).__name__,
            "active": float((codes > 0).sum(1).mean()),
            "codes differ by": difference(sae.transform(X.numpy()), codes),
            "reconstructions": difference(sae.reconstruct(X.numpy()), reconstructed),
        }


def difference(found: np.ndarray, expected: np.ndarray) -> str:
    """The largest one, relative to the largest number."""
    largest = np.abs(found - expected).max() / np.abs(expected).max()
    return f"{largest:.0e}" if largest else "0"


def jumprelu(n_features: int, n_components: int, seed: int) -> PretrainedSAE:
    """Random unit atoms, and thresholds that some of them pass for Gaussian rows."""
    draw = np.random.default_rng(seed)
    atoms = draw.standard_normal((n_components, n_features), dtype=np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    rare = torch.distributions.Normal(0, 1).icdf(
        torch.tensor(1 - N_ACTIVE / n_components)
    )
    return estimator_of(
        Weights(
            atoms,
            np.zeros(n_components, np.float32),
            atoms,
            np.zeros(n_features, np.float32),
            np.full(n_components, float(rare), np.float32),
        )
    )


def coding(n_components: int, n_features: int, n_rows: int) -> Row:
    X = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        to_sae_lens(jumprelu(n_features, n_components, 0), folder)
        began = perf_counter()
        sae = from_sae_lens(folder).set_params(sparse_output=True)
        opened = perf_counter() - began
    encoder = torch.tensor(sae.encoder_weights_)
    rows = torch.from_numpy(X)
    block = 1024
    scores = torch.empty(block, n_components)
    coded, products = [], []
    with PeakMemory() as memory:
        for _ in range(N_CALLS + 1):
            began = perf_counter()
            codes = sae.transform(X)
            middle = perf_counter()
            for part in rows.split(block):
                torch.mm(part, encoder.T, out=scores[: len(part)])
            products.append(perf_counter() - middle)
            coded.append(middle - began)
    ratios = np.divide(products[1:], coded[1:])
    return {
        "atoms": n_components,
        "features": n_features,
        "rows": n_rows,
        "active": codes.nnz / n_rows,
        "opening, s": opened,
        "coding, s": float(np.median(coded[1:])),
        "product, s": float(np.median(products[1:])),
        "share": float(np.median(ratios)),
        "memory, GiB": (memory.peak - memory.before) / 2**30,
    }


class Enough(Exception):
    pass


def written(folder: Path, n_components: int, n_features: int) -> list[Path]:
    """Two SAEs as SAELens writes them."""
    paths = [folder / name for name in ("first", "second")]
    for seed, path in enumerate(paths):
        to_sae_lens(jumprelu(n_features, n_components, seed), path)
    return paths


def agreement(
    paths: list[Path], n_components: int, n_features: int, n_blocks: int | None
) -> Row:
    """Two SAEs in folders compared, or so many blocks of the first."""
    done: list[tuple[float, int]] = []

    def of(self, other: str):
        # Both have been read.
        done.append((perf_counter(), 0))

        def after(n_atoms: int) -> None:
            done.append((perf_counter(), n_atoms))
            if len(done) - 1 == n_blocks:
                raise Enough

        return after

    with PeakMemory() as memory, patch.object(Progress, "of", of):
        began, cpu_began = perf_counter(), process_time()
        with suppress(Enough):
            compare(paths, verbose=1)
        cpu = process_time() - cpu_began
    n_done = sum(n for _, n in done)
    (begun, _), (last, _) = done[0], done[-1]
    return {
        "atoms": n_components,
        "features": n_features,
        "compared": n_done / n_components,
        "reading, s": begun - began,
        "comparing, s": last - begun,
        "CPU, s": cpu,
        "all, s": begun - began + (last - begun) * n_components / n_done,
        "private, GiB": memory.peak / 2**30,
        # Pages of the files count here, which the system may drop.
        "resident, GiB": getrusage(RUSAGE_SELF).ru_maxrss / 2**20,
    }


def attribution(model_folder: Path, text: Path) -> Iterator[Row]:
    """How gradient times code compares with ablation, context by context."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model.eval().requires_grad_(False)
    n_tokens = WINDOW * (N_FIT + N_ATTRIBUTED)
    # A token has more than one letter.
    words = gzip.decompress(text.read_bytes()).decode()[: 8 * n_tokens]
    ids = np.array(tokenizer(words)["input_ids"][:n_tokens]).reshape(-1, WINDOW)
    extractor = ActivationExtractor(model, SITE, positions="all", skip_first=1)
    sae = MFRSparseAutoencoder(
        N_ATOMS,
        n_saes=1,
        n_witnesses=0,
        k=K_ATTRIBUTED,
        max_steps=N_STEPS,
        random_state=0,
    ).fit(extractor.fit_transform(ids[:N_FIT]))
    module = sae.to_torch(error_term=True)
    for context in torch.from_numpy(ids[N_FIT:]):
        found = attributed(model, module, context)
        top = found.attribution.abs().argmax()
        atom = int(found.atoms[top])
        yield {
            "context": repr(tokenizer.decode(context[-6:])),
            "next": repr(tokenizer.decode([found.token])),
            "atoms": len(found.atoms),
            "r": float(np.corrcoef(found.attribution, found.effect)[0, 1]),
            # Slope of the regression of attribution on effect through the origin.
            "slope": float(
                found.attribution @ found.effect / found.effect.square().sum()
            ),
            "strongest": atom,
            "attribution": float(found.attribution[top]),
            "effect": float(found.effect[top]),
        }


class Attributed(NamedTuple):
    """Effects of the atoms at the last token on the likeliest next token."""

    token: int
    atoms: Tensor
    attribution: Tensor
    """gradient of its logit with respect to the codes, times the codes"""
    effect: Tensor
    """by how much the logit falls without the atom at this token"""


def attributed(model, module, context: Tensor) -> Attributed:
    kept: list[Tensor] = []

    def keep(_, inputs, codes: Tensor) -> None:
        codes.retain_grad()
        kept.append(codes)

    with spliced(model, module), hooked(module.codes, keep):
        logits = model(context[None]).logits[0, -1]
    token = int(logits.argmax())
    logits[token].backward()
    (codes,) = kept
    at_last = codes.detach()[0, -1]
    atoms = at_last.nonzero()[:, 0]

    def without_one(_, inputs, codes: Tensor) -> Tensor:
        codes = codes.clone()
        codes[torch.arange(len(atoms)), -1, atoms] = 0
        return codes

    with torch.no_grad(), spliced(model, module), hooked(module.codes, without_one):
        ablated = model(context.expand(len(atoms), -1)).logits[:, -1, token]
    attribution = codes.grad[0, -1, atoms] * at_last[atoms]
    return Attributed(token, atoms, attribution, logits[token].detach() - ablated)


@contextmanager
def hooked(module: nn.Module, hook) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def spliced(model: nn.Module, module: nn.Module):
    """The output of the site goes through the SAE."""
    return hooked(model.get_submodule(SITE), lambda _, inputs, output: module(output))


def main() -> None:
    parser = Command("others", __doc__)
    parser.add_argument(
        "what", choices=["layouts", "coding", "agreement", "attribution"]
    )
    parser.add_argument("--atoms", type=int)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--rows", type=int, default=10_000, help="to code")
    parser.add_argument("--blocks", type=int, help="to compare; all by default")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("--text", type=Path, metavar="FILE", help=".txt.gz")
    arguments, report = parser.parse()
    table, n_features = {"what": arguments.what}, arguments.features
    if arguments.what == "layouts":
        report(layouts(), table, {"active": 1})
    elif arguments.what == "coding":
        n_atoms = arguments.atoms or 65_536
        rows = in_own_process(coding, n_atoms, n_features, arguments.rows)
        report([rows], table, DIGITS)
    elif arguments.what == "agreement":
        n_atoms = arguments.atoms or 32_768
        with tempfile.TemporaryDirectory() as folder:
            size = n_atoms, n_features
            paths = in_own_process(written, Path(folder), *size)
            row = in_own_process(agreement, paths, *size, arguments.blocks)
        report([row], table, DIGITS)
    elif not (arguments.model and arguments.text):
        raise SystemExit("attribution needs --model and --text: nothing was done")
    else:
        report(
            attribution(arguments.model, arguments.text), table, {"slope": 2, "r": 2}
        )


if __name__ == "__main__":
    main()
