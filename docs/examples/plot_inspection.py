"""
Looking at what was learned
===========================

Like those of scikit-learn, each display draws one thing: how closely atoms agree, what
they look like, how training went, how similar the dictionaries are, and what
reconstruction leaves. A report puts all atoms on one page, to sort, search and open.
"""

# %%
# A fit that is watched
# ---------------------
# The loss of each step is kept by the estimator. Agreement, dead atoms and
# reinitialisations over the steps are recorded by a callback.

from sklearn.datasets import load_digits

from skmfr import MFRSparseAutoencoder
from skmfr.inspection import (
    DictionaryDisplay,
    FeatureAgreementDisplay,
    ReconstructionDisplay,
    SimilarityDisplay,
    TrainingCurveDisplay,
    TrainingHistory,
    report,
)

X, _ = load_digits(return_X_y=True)
sae = MFRSparseAutoencoder(
    n_components=128,
    batch_size=256,
    max_steps=500,
    callback=TrainingHistory(),
    random_state=0,
).fit(X)

# %%
# Which atoms to trust
# --------------------
# Agreement with the witnesses against the share of images in which the atom is active.

_ = FeatureAgreementDisplay.from_estimator(sae, X)

# %%
# What atoms look like
# --------------------
# From the most to the least agreed, above the nearest atoms of the other SAEs.

_ = DictionaryDisplay.from_estimator(sae, image_shape=(8, 8))

# %%
# How training went
# -----------------
# k falls over the first fifth of the steps. From the middle, the penalty is on.

_ = TrainingCurveDisplay.from_estimator(sae)

# %%
# How alike the dictionaries are
# ------------------------------
# The penalty pulls the three SAEs of the group together, and not the witnesses.

_ = SimilarityDisplay.from_estimator(sae)

# %%
# Two of them, atom by atom: matched atoms are on the diagonal.

_ = SimilarityDisplay.from_estimator(sae, pair=(0, 1))

# %%
# What reconstruction leaves
# --------------------------

_ = ReconstructionDisplay.from_estimator(sae, X, image_shape=(8, 8))

# %%
# All atoms on one page
# ---------------------
# Sort and search the table; click a row, or press Enter on it, to open an atom.
# ``report(...).write_html("atoms.html")`` writes the page to a file.

report(sae, X, image_shape=(8, 8), title="Atoms of digits")
