"""A folder to upload to the Hugging Face Hub: weights, configuration, a model card."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path

import numpy as np

from .._data.checked import checked_data
from .._data.moments import fvu_of_blocks
from .._pretrained import PretrainedSAE
from .._utils.checks import in_python
from .._utils.extras import needed_by
from .._utils.files import replacing
from ._agreement import AGREEMENT, summary
from ._native import check_sae
from ._sae_lens import to_sae_lens
from ._weights import estimator_with, weights_of

CARD, PICTURE = "README.md", "agreement.png"
# Parameters that the card omits, because they concern the machine or the session.
NO_METHOD = (
    "device",
    "verbose",
    "callback",
    "checkpoint_dir",
    "checkpoint_every",
    "random_state",
)


def to_huggingface_folder(
    sae,
    folder,
    X,
    *,
    data,
    name=None,
    license=None,
    model_name=None,
    hook_name=None,
    **metadata,
) -> None:
    """Write a folder that is ready for the Hugging Face Hub.

    The folder contains the files of :func:`to_sae_lens`, so that SAELens can open the
    upload, and a model card. The card lists the data, the parameters, the quality on X
    (variance unexplained, active atoms per sample, atoms that are never active; of the
    encoder, and of another `transform_algorithm` if that is set), mean
    agreement and probability to return, and the share of trusted atoms, and shows a
    histogram of the agreement. Nothing is uploaded: ``huggingface-cli upload NAME
    FOLDER`` does that.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted estimator.
    folder : path-like
        Folder to write to. It is created if necessary, and files of the same names are
        replaced.
    X : array-like of shape (n_samples, n_features)
        Samples that measure the quality of the SAE, preferably not those of the fit.
    data : str
        Description of the training data and of X, in words (Markdown).
    name : str, optional
        Title of the card. None means the name of the folder.
    license : str, optional
        Name of the licence on the Hub, such as "mit".
    model_name, hook_name : str, optional
        Model and place of the activations, as in :func:`to_sae_lens`.
    **metadata : JSON values
        As in :func:`to_sae_lens`.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` has another type, metadata are not JSON, or `data` is not a string.
    ValueError
        If `transform` would refuse X.
    ImportError
        If safetensors is not installed, or if matplotlib is not and there is agreement
        to draw.

    See Also
    --------
    to_sae_lens : The weights alone.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.io import to_huggingface_folder
    >>> X = np.random.default_rng(0).standard_normal((200, 8))
    >>> sae = MFRSparseAutoencoder(k=2, max_steps=50, random_state=0).fit(X)
    >>> with TemporaryDirectory() as folder:
    ...     to_huggingface_folder(sae, folder, X, data="White noise.", name="Noise")
    ...     sorted(path.name for path in Path(folder).iterdir())[:3]
    ['README.md', 'agreement.png', 'agreement.safetensors']
    """
    if not isinstance(data, str):
        raise TypeError(f"data must be text, got {data!r}.")
    check_sae(sae, PretrainedSAE)
    # Before anything is written, because X may be refused.
    X = checked_data(sae, X)
    # The files are those of an encoder, which others code by.
    encoder = copy(sae).set_params(transform_algorithm="encoder")
    weights = weights_of(sae)
    if weights.threshold is not None:
        # They have no limit to the active atoms of a sample, as in "batchtopk".
        encoder = estimator_with(PretrainedSAE(device=sae.device), weights)
    coders = [encoder] if sae.transform_algorithm == "encoder" else [encoder, sae]
    quality = "\n\n".join(_table(_quality(each, X)) for each in coders)
    folder = Path(folder)
    to_sae_lens(sae, folder, model_name=model_name, hook_name=hook_name, **metadata)
    known = summary(sae).get("skmfr_agreement")
    picture = folder / PICTURE
    if known:
        with replacing(picture) as fresh:
            _draw(sae, fresh)
    else:
        picture.unlink(missing_ok=True)
    site = {"Model": model_name, "Hook": hook_name}
    card = "\n\n".join(
        [
            _front_matter(license),
            f"# {name or folder.resolve().name}",
            f"A sparse autoencoder of {len(sae.components_):,} atoms for "
            f"{sae.n_features_in_:,} features, written by skmfr.",
            _table({name: value for name, value in site.items() if value}),
            f"## Data\n\n{data}",
            f"## On {len(X):,} samples\n\n{quality}",
            _agreement_section(known),
            f"## Parameters\n\n{_table(_parameters(sae))}",
            _use(sae),
        ]
    )
    with replacing(folder / CARD) as fresh:
        fresh.write_text(card.replace("\n\n\n\n", "\n\n") + "\n", encoding="utf-8")


def _front_matter(license: str | None) -> str:
    """Metadata for the Hub, in YAML, which includes JSON."""
    entries = {
        "library_name": "saelens",
        "tags": ["sparse-autoencoder", "interpretability", "skmfr"],
    } | ({"license": license} if license else {})
    lines = [f"{name}: {json.dumps(value)}" for name, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _table(rows: dict[str, object]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _quality(sae, X) -> dict[str, object]:
    """Quality on samples, which are coded once."""
    from .._sae.arrays import coded_blocks, coder_of
    from .._sae.codes import n_active

    coder = coder_of(sae, X)
    counts = np.zeros(len(sae.components_))

    def blocks():
        for block, codes in coded_blocks(coder, X):
            counts[:] += n_active(codes, len(counts)).cpu().numpy()
            yield block, coder.decode(codes).cpu().numpy()

    fvu = fvu_of_blocks(blocks())
    return {
        "Coded by": sae.transform_algorithm,
        "Fraction of variance unexplained (FVU)": fvu,
        "Active atoms per sample (L0)": float(counts.sum() / len(X)),
        "Atoms that are never active": f"{(counts == 0).mean():.1%}",
    }


def _agreement_section(known: dict | None) -> str:
    if not known:
        return "## Agreement\n\nNot measured."
    rows: dict[str, object] = {
        "Mean agreement of atoms (cosine)": known["mean"],
        "Of random dictionaries": known["null"],
        "Trusted atoms": f"{known['trusted_share']:.1%}",
    }
    if known["n_witnesses"] is not None:
        rows["Witnesses"] = known["n_witnesses"]
    side_file = f"`{AGREEMENT}` has agreement and trust of each atom"
    if "reappearance" in known:
        rows["Mean probability to return in another fit"] = known["reappearance"]
        side_file += ", and how likely another fit finds it"
    return (
        f"## Agreement\n\n{_table(rows)}\n\n![Histogram of agreement]({PICTURE})\n\n"
        f"Agreement is the largest cosine of an atom with those of {_evidence(known)} "
        f"{side_file}."
    )


def _evidence(known: dict) -> str:
    """Dictionaries that atoms agree with, and the meaning of that."""
    if known["under_penalty"]:
        return (
            "the SAEs that were trained with it. The penalty of this training raises "
            "agreement, and there are no witnesses without a penalty, so agreement "
            "does not show that an atom is in the data."
        )
    if known["n_witnesses"] is None:
        return (
            "other dictionaries. It is not known how these were made, and therefore "
            "not what agreement means."
        )
    return (
        "an SAE that was trained beside it, from another start. Atoms that are found "
        "again are likely to be in the data."
    )


def _parameters(sae) -> dict[str, object]:
    """Parameters of the method, and steps taken."""
    parameters = {
        f"`{name}`": value
        for name, value in sae.get_params(deep=False).items()
        if name not in NO_METHOD
    }
    return parameters | ({"Steps": sae.n_steps_} if sae.n_steps_ else {})


def _use(sae) -> str:
    algorithm = ""
    if sae.transform_algorithm != "encoder":
        parameters = {
            "transform_algorithm": sae.transform_algorithm,
            "positive_code": sae.positive_code,
        }
        limit, threshold = sae._selection
        if threshold is not None:
            # Files with thresholds have no number.
            parameters["k"] = sae.k if sae.transform_algorithm == "omp" else limit
        known = in_python(parameters).items()
        given = ", ".join(f"{name}={value!r}" for name, value in known)
        algorithm = f"sae.set_params({given})  # without it, the encoder codes\n"
    return (
        "## Use\n\nIn a folder:\n\n```python\nfrom skmfr.io import from_sae_lens\n\n"
        f'sae = from_sae_lens("FOLDER")\n{algorithm}codes = sae.transform(X)\n```\n\n'
        'or `sae_lens.SAE.load_from_disk("FOLDER")`'
        + (", which codes by the encoder." if algorithm else ".")
    )


def _draw(sae, path: Path) -> None:
    """Draw a histogram of the agreement."""
    with needed_by("to_huggingface_folder", "plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    ax = figure.subplots()
    null = sae.agreement_null_
    agreement, trusted = sae.feature_agreement_, sae.trusted_
    ax.hist(
        [agreement[trusted], agreement[~trusted]],
        bins=40,
        stacked=True,
        color=["#0072B2", "#999999"],
        label=["trusted", "not trusted"],
    )
    ax.axvline(null, color="black", ls="--", label=f"random atoms ({null:.2f})")
    ax.set(xlabel="Agreement (cosine)", ylabel="Atoms")
    ax.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)
