"""
Which atoms are true? Data whose features are known
===================================================

Samples are sparse sums of 64 known features in 32 dimensions. A dictionary of 128 atoms
has room for twice as many, so about half of its atoms cannot be features of the data.
Agreement with the witnesses tells which.
"""

# %%
# Data and fit
# ------------
# Four features are active in a sample, on average.

import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition
from skmfr.inspection import FeatureAgreementDisplay
from skmfr.metrics import recall_precision

X, _, features = make_superposition(40_000, 32, 64, n_active=4, random_state=0)
X, X_other = X[:20_000], X[20_000:]
sae = MFRSparseAutoencoder(n_components=128, k=4, max_steps=1000, random_state=0)
sae.fit(X)

# %%
# All features are found, and other atoms besides
# -----------------------------------------------
# Recall is the share of features that have an atom at a cosine of 0.9, precision the
# share of atoms that have such a feature. On real data nobody knows either.

recall, precision = recall_precision(sae.components_, features, tau=0.9)
print(f"recall:    {recall:.2f}")
print(f"precision: {precision:.2f}")

# %%
# Agreement knows
# ---------------
# AUROC is the probability that a true atom has a higher score than a false one. The
# penalty pulls the SAEs of the group together on true atoms and on false ones, so the
# group's own agreement proves nothing, although it tells them apart here too. The
# witnesses were never told what the group has found.

cosine_to_truth = cosine_similarity(sae.components_, features).max(axis=1)
is_true = cosine_to_truth >= 0.9
scores = {
    "with the witnesses": sae.feature_agreement_,
    "inside the group": sae.mutual_agreement_[sae.reference_sae_],
}
for name, score in scores.items():
    print(f"AUROC of agreement {name}: {roc_auc_score(is_true, score):.3f}")

trusted_and_true = is_true[sae.trusted_].mean()
print(f"atoms to trust: {sae.trusted_.sum()}, of which true: {trusted_and_true:.2f}")

# %%
# Trusted atoms return in other fits. That does not make each of them a feature: some
# are mixtures of features that every fit finds.
#
# Each point is an atom. Atoms to the left of the dotted line are not features of the
# data.

fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
for ax, (name, score) in zip(axes, scores.items(), strict=True):
    for mask, style in [
        (is_true, {"marker": "o", "color": "tab:blue", "label": "true"}),
        (~is_true, {"marker": "x", "color": "tab:orange", "label": "false"}),
    ]:
        ax.scatter(cosine_to_truth[mask], score[mask], s=25, **style)
    ax.axvline(0.9, color="0.5", linestyle=":")
    ax.axhline(sae.agreement_null_, color="0.5", linestyle="--")
    auroc = roc_auc_score(is_true, score)
    ax.set(
        title=f"Agreement {name}, AUROC {auroc:.3f}",
        xlabel="Cosine with the nearest true feature",
    )
axes[0].set_ylabel("Agreement (cosine)")
axes[0].annotate(
    "random dictionaries",
    (1, sae.agreement_null_),
    xytext=(0, 4),
    textcoords="offset points",
    ha="right",
    color="0.3",
)
axes[0].legend(title="Atom", loc="upper left")
plt.show()

# %%
# Similarity to the truth and to the witnesses
# --------------------------------------------
# The paper's first figure, for one atom after the other: atoms that are more similar to
# those of another SAE are more similar to a feature. Colour is the probability that an
# independent fit finds the atom again.
#
# Is this probability right? A fit to other samples, with another seed, tells. On the
# right, atoms are binned by their probability. A bin is on the diagonal if as many of
# its atoms return as promised.

other = clone(sae).set_params(random_state=1).fit(X_other)
fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax, kind, truth in zip(
    axes, ["truth", "calibration"], [features, other], strict=True
):
    FeatureAgreementDisplay.from_estimator(sae, truth=truth, kind=kind, ax=ax)
plt.show()
