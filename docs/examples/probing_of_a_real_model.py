"""
Few atoms of a real language model
==================================

Can a few atoms tell what a text is about? SmolLM2-135M reads requests to an assistant
(CLINC150, ten domains, 150 intents) and text messages (SMS spam). A classifier sees
only a few atoms per class. This page is not run with the documentation, because the
model is large: the tables come from the :doc:`benchmark </activations_benchmark>`. The
:doc:`example of a small transformer <plot_transformer>` does the same in seconds.
"""

# %%
# A pipeline from texts to labels
# -------------------------------
# The extractor runs the model up to the layer, and the SAE codes each token. For each
# atom, a text then has the largest code over its tokens. A model's first token is
# special, whatever it is, and some requests are a single token. So each text gets a
# first token that says nothing, and ``skip_first=1`` leaves it out.
# ``memory`` keeps activations, so that the model runs once for all steps of a search.
# Replace FOLDER with the folder or the name of the model.

from functools import partial

from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import AutoTokenizer

from skmfr import MFRSparseAutoencoder
from skmfr.activations import ActivationExtractor


def begun(tokenizer, texts):
    """Token ids of texts after a token that begins each."""
    return tokenizer(["<|im_start|>" + text for text in texts])


def classifier(wikitext: list[str], n_atoms: int, folder: str = "FOLDER"):
    """A pipeline from texts to labels, with atoms learned from other texts."""
    layer, options = "model.layers.15.mlp", {"skip_first": 1, "max_length": 128}
    options["tokenizer"] = partial(begun, AutoTokenizer.from_pretrained(folder))
    tokens = ActivationExtractor(folder, layer, positions="all", **options)
    sae = MFRSparseAutoencoder(1152, k=32, max_steps=400, sparse_output=True)
    sae.fit(tokens.fit_transform(wikitext))
    codes = ActivationExtractor(
        folder,
        layer,
        positions="max",
        sae=FrozenEstimator(sae),
        memory="activations",
        **options,
    )
    of_class = make_pipeline(
        SelectKBest(f_classif, k=n_atoms),
        MaxAbsScaler(),
        LogisticRegression(C=10, max_iter=1000),
    )
    # Each class has its own atoms.
    return make_pipeline(codes, OneVsRestClassifier(of_class))


# %%
# How many atoms it takes
# -----------------------
# Share of the test texts that are classified correctly, by task and number of atoms per
# class. "activations" has the 576 numbers of the layer instead of atoms. All
# dictionaries have 1,152 atoms, k=32, and 400 steps on WikiText; one seed.
#
# .. include:: /_tables/probing.md
#    :parser: myst_parser.sphinx_
#    :start-after: <!-- requests -->
#    :end-before: <!-- spam -->
#
# Spam:
#
# .. include:: /_tables/probing.md
#    :parser: myst_parser.sphinx_
#    :start-after: <!-- spam -->
#    :end-before: <!-- deciding -->

# %%
# The atoms that decide
# ---------------------
# For each class, the atom with the largest F value; how well its largest code alone
# ranks the test texts (AUROC); the probability that another fit has the atom; and the
# tokens where it is most active (``skmfr.activations.top_contexts``).
#
# .. include:: /_tables/probing.md
#    :parser: myst_parser.sphinx_
#    :start-after: <!-- deciding -->
#    :end-before: <!-- trusted -->

# %%
# Are trusted atoms worth more?
# -----------------------------
# Loss recovered, and the same classifiers, with some of the atoms only. Atoms that are
# compared are active equally often: neighbours in the order of usage form pairs, and
# one half of the dictionary has the atom of each pair that is likelier to return.
#
# .. include:: /_tables/probing.md
#    :parser: myst_parser.sphinx_
#    :start-after: <!-- trusted -->
#    :end-before: <!-- end -->
