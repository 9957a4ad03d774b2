"""
How failures look, and what to do
=================================

Four ways in which a fit goes wrong, each made on purpose: from sparse sums of known
features, with one setting that does not suit them. :class:`~skmfr.MFRSparseAutoencoder`
warns of each. The :doc:`page on failures </user_guide/failures>` says what to do.
"""

# %%
# What is measured
# ----------------
# ``attempt`` fits, prints what ``fit`` warns of, and how the result would look to one
# who did not read the warning.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition
from skmfr.metrics import fvu, recall_precision

BAD, GOOD = "tab:orange", "tab:blue"


def attempt(X, features, batch_size=512, **parameters):
    """A fit, with all that it warns of."""
    sae = MFRSparseAutoencoder(batch_size=batch_size, random_state=0, **parameters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        sae.fit(X)
    for warning in caught:
        print(f"Warning: {warning.message}")
    print(f"FVU: {fvu(X, sae.reconstruct(X)):.3f}")
    print(f"agreement inside the group: {sae.mutual_agreement_.mean():.3f}")
    print(f"agreement with the witnesses: {sae.feature_agreement_.mean():.3f}")
    print(f"features found: {recall_precision(sae.components_, features)[0]:.0%}")
    return sae


# %%
# Poor reconstruction with high agreement
# ---------------------------------------
# 64 features in 32 dimensions, 4 active in a sample. Eight atoms, only one of
# them active, cannot describe that. They can learn little else than the eight
# directions in which the data vary most, and the SAEs agree on these.

X, _, features = make_superposition(10_000, 32, 64, n_active=4, random_state=0)
poor = attempt(X, features, n_components=8, k=1, max_steps=200)

# %%
# With the right numbers:

good = attempt(X, features, n_components=64, k=4, max_steps=300)

# %%
# High agreement alone tells the two apart the wrong way round. Look at both numbers.

fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
measures = {
    "Agreement inside the group": [s.mutual_agreement_.mean() for s in (poor, good)],
    "FVU": [fvu(X, sae.reconstruct(X)) for sae in (poor, good)],
}
for ax, (name, values) in zip(axes, measures.items(), strict=True):
    bars = ax.bar(["8 atoms, k=1", "64 atoms, k=4"], values, color=[BAD, GOOD])
    ax.bar_label(bars, fmt="%.2f")
    ax.set(title=name, ylim=(0, 1.15))
fig.suptitle("Poor reconstruction with high agreement")

# %%
# Collapse to identical atoms
# ---------------------------
# With ``matching="max"`` several atoms of one SAE may be pulled to the same atom of
# another. With a strong penalty they meet there: the dictionary holds copies, and has
# room for fewer features than it seems.

collapsed = attempt(
    X, features, n_components=128, k=4, matching="max", alpha=100.0, max_steps=300
)

# %%
# The same, one to one and with the usual weight:

distinct = attempt(X, features, n_components=128, k=4, max_steps=300)


# %%
# For each atom, the largest cosine with another one of its own dictionary. Copies stand
# at 1.


def nearest_other(atoms):
    """Cosine of each atom with the nearest other one."""
    cosine = atoms @ atoms.T
    np.fill_diagonal(cosine, -1)
    return cosine.max(axis=1)


fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
ax.hist(
    [nearest_other(sae.components_) for sae in (collapsed, distinct)],
    bins=np.linspace(0.3, 1, 29),
    color=[BAD, GOOD],
    label=['matching="max", alpha=100', 'matching="hungarian", alpha=1'],
)
ax.set(
    title="Collapse to identical atoms",
    xlabel="Cosine with the nearest other atom of the same dictionary",
    ylabel="Atoms",
)
ax.legend(loc="upper left")

# %%
# Over-regularisation
# -------------------
# A penalty that is too strong keeps atoms where they agree instead of where they
# reconstruct. The witnesses learn from the same batches without it, so the price is
# known. Short fits pay most: the penalty is gone in the last fifth of the steps, and
# these few are not enough to recover. Copies of atoms are another sign of it, as
# ``matching="max"`` permits them.

settings = {"n_components": 64, "k": 4, "matching": "max", "max_steps": 200}
pulled = attempt(X, features, alpha=1000.0, **settings)

# %%
# With the usual weight:

free = attempt(X, features, alpha=1.0, **settings)

# %%
# The penalty rises after half of the steps, and is gone after 80 %.

fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
for sae, color in [(pulled, BAD), (free, GOOD)]:
    ax.plot(sae.loss_curve_, color=color, label=f"alpha={sae.alpha:g}")
ax.axvspan(100, 160, color="0.93", zorder=0)
ax.annotate("penalty on", (130, 0.27), ha="center", color="0.3")
ax.set(
    title="Over-regularisation",
    xlabel="Gradient step",
    ylabel="FVU of the batch, mean of 3 SAEs",
    xlim=(60, 200),
    ylim=(0.11, 0.28),
)
ax.legend()

# %%
# Unstable reinitialisation
# -------------------------
# Here a few features are much more frequent than all others, so the atoms that find
# them are busier than others, as they should be. The paper's threshold, 2.5, takes that
# for a fault and starts an SAE anew, each time again.

X, _, features = make_superposition(
    10_000, 32, 64, n_active=4, decay=0.7, random_state=0
)
settings = {"n_components": 64, "k": 4, "batch_size": 256, "max_steps": 750}
restarted = attempt(X, features, reinit_threshold=2.5, **settings)
print(f"started anew: {restarted.n_reinits_}")

# %%
# Without it, which is the default:

undisturbed = attempt(X, features, **settings)

# %%
# Each peak of the orange curve in the first half is a new start. Most features are so
# rare that neither fit finds them.

fig, (curve, use) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for sae, color in [(restarted, BAD), (undisturbed, GOOD)]:
    curve.plot(
        sae.loss_curve_, color=color, label=f"reinit_threshold={sae.reinit_threshold}"
    )
curve.set(
    title="Unstable reinitialisation",
    xlabel="Gradient step",
    ylabel="FVU of the batch, mean of 3 SAEs",
    yscale="log",
)
curve.legend()
rates = np.sort((undisturbed.transform(X) != 0).mean(axis=0))[::-1]
use.bar(np.arange(1, len(rates) + 1), rates, color=GOOD, width=1)
use.axhline(4 / 64, color="0.3", linestyle="--")
use.annotate("all used alike", (64, 4 / 64), xytext=(64, 0.1), ha="right", color="0.3")
use.set(
    title="Why: some features are frequent",
    xlabel="Atom, by how often it is used",
    ylabel="Share of samples with this atom",
)
plt.show()
