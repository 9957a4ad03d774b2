"""
Features of a vision model: what a convolutional network sees in digits
=======================================================================

A small convolutional network learns to read 8 x 8 images of digits. Sparse
autoencoders (SAEs) then learn what its last hidden layer is made of. We look at the
images on which the most and the least trusted of these features are most active, and
remove a feature to see what the network makes of the digits without it.
"""

# %%
# A network
# ---------
# Two convolutions and a hidden layer; half of the images are kept apart.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    ablate,
    feature_table,
    top_contexts,
)

images, y = load_digits(return_X_y=True)
images = images.reshape(-1, 1, 8, 8) / 16
train, test, y_train, y_test = train_test_split(
    images, y, test_size=0.5, random_state=0
)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 64),
    nn.ReLU(),
    nn.Linear(64, 10),
)
X, labels = torch.tensor(train, dtype=torch.float32), torch.tensor(y_train)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(20):
    for batch in torch.randperm(len(X)).split(64):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X[batch]), labels[batch]).backward()
        optimiser.step()


def probabilities(images: np.ndarray) -> np.ndarray:
    """Of each digit, (n_images, 10)."""
    with torch.no_grad():
        return model(torch.tensor(images, dtype=torch.float32)).softmax(1).numpy()


accuracy = (probabilities(test).argmax(1) == y_test).mean()
print(f"accuracy on new images: {accuracy:.3f}")

# %%
# Its features
# ------------
# ``"6"`` is the name of the ReLU after the hidden layer, as ``model.named_modules()``
# has it. The extractor is a transformer of scikit-learn: images in, activations out.

extractor = ActivationExtractor(model, "6")
sae = MFRSparseAutoencoder(64, k=4, max_steps=1500, random_state=0)
sae.fit(extractor.fit_transform(train))
print(f"variance explained on new images: {sae.score(extractor.transform(test)):.3f}")
returning = sae.reappearance_ > 0.8
print(f"atoms that return with a probability above .8: {returning.sum()} of 64")

# %%
# The images behind the atoms
# ---------------------------
# One pass over the new images finds those on which each atom is most active. Atoms
# that are active on fewer images than we want to show are left out.

N_ATOMS, N_IMAGES = 5, 6
contexts = top_contexts(sae, extractor, test, n_contexts=N_IMAGES)
table = feature_table(sae, contexts=contexts)
table["n_images"] = (contexts.inputs >= 0).sum(axis=1)
shown = table[table["n_images"] == N_IMAGES].sort_values("agreement", ascending=False)
print(shown[["agreement", "trusted", "density", "largest code"]].round(2).head())

# %%
# The atoms that the witnesses found too show one digit each, written in one way. Most
# of those that they did not find mix several.

fig = plt.figure(figsize=(10, 5.2), layout="constrained")
halves = {
    "Most agreed atoms": shown.index[:N_ATOMS],
    "Least agreed atoms": shown.index[-N_ATOMS:],
}
for half, (title, atoms) in zip(fig.subfigures(1, 2), halves.items(), strict=True):
    half.suptitle(title, fontsize=11)
    for row, atom in zip(half.subplots(N_ATOMS, N_IMAGES), atoms, strict=True):
        for ax, number in zip(row, contexts.inputs[atom], strict=True):
            ax.imshow(test[number, 0], cmap="gray_r")
            ax.set(xticks=[], yticks=[])
        agreement = f"{sae.feature_agreement_[atom]:.2f}"
        row[0].set_ylabel(agreement, rotation=0, ha="right", va="center")
fig.suptitle(
    f"The {N_IMAGES} new images on which an atom is most active, an atom a row\n"
    "Number: agreement with the witnesses (random dictionaries: "
    f"{sae.agreement_null_:.2f})",
    fontsize=12,
)

# %%
# Without one of them
# -------------------
# Inside ``ablate`` the network computes as before, except for one atom, which is taken
# out of the hidden layer. We take the returning atom whose absence costs one of the
# digits the most probability.


def without(atom: int) -> np.ndarray:
    """Probabilities of digits if an atom is removed, (n_images, 10)."""
    with ablate(model, "6", sae, atom):
        return probabilities(test)


before = probabilities(test)
returning = np.flatnonzero(returning)
lost = np.array(
    [(before - without(atom))[range(len(test)), y_test] for atom in returning]
)
by_digit = np.array([lost[:, y_test == digit].mean(axis=1) for digit in range(10)])
digit, which = np.unravel_index(by_digit.argmax(), by_digit.shape)
atom = returning[which]
after = without(atom)
for name, p in [("with", before), ("without", after)]:
    right = p.argmax(1) == y_test
    print(
        f"accuracy {name:>7} atom {atom}: {right[y_test == digit].mean():.3f} "
        f"on {digit}, {right[y_test != digit].mean():.3f} on other digits"
    )

changed = np.flatnonzero((y_test == digit) & (after.argmax(1) != digit))[:5]
fig, axes = plt.subplots(2, 5, figsize=(10, 4), layout="constrained", sharey="row")
for (image, bars), number in zip(axes.T, changed, strict=True):
    image.imshow(test[number, 0], cmap="gray_r")
    image.set(xticks=[], yticks=[])
    bars.bar(np.arange(10) - 0.2, before[number], width=0.4, label="as it is")
    bars.bar(np.arange(10) + 0.2, after[number], width=0.4, label="without the atom")
    bars.set(xticks=range(10), ylim=(0, 1))
axes[1, 0].set_ylabel("Probability")
axes[1, 2].set_xlabel("Digit")
fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
fig.suptitle(f"What the network reads, with atom {atom} and without it", fontsize=12)
plt.show()
