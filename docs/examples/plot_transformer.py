"""
Features of a transformer: from a model to trusted features and back
====================================================================

A small language model learns a language of a few rules: stories keep to one topic, and
verbs agree with their subjects. Sparse autoencoders (SAEs) learn what its MLP writes.
We measure what their reconstruction is worth to the model, read features in the
contexts where they are active, ask which of them speak for a word, and change the topic
of a story with one of them.
"""

# %%
# A language and a model
# ----------------------
# Nothing says what a story is about but its words.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import GPT2Config, GPT2LMHeadModel

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    ablate,
    feature_table,
    logit_effects,
    loss_recovered,
    steer,
    top_contexts,
)

LENGTH = 32
ADJECTIVES = ["big", "small", "old", "young", "bright", "quiet"]
TOPICS = {
    "sea": ("whale shark crab sailor wave boat", "swim sink sail drift"),
    "farm": ("cow horse farmer hen barn tractor", "graze plough feed milk"),
    "music": ("singer drummer choir violin song drum", "sing play hum rehearse"),
    "space": ("rocket planet star comet pilot moon", "orbit land launch shine"),
    "kitchen": ("cook oven spoon cake knife pan", "bake boil stir taste"),
}


def story(topic: str, rng: np.random.Generator) -> list[str]:
    """Sentences on a topic, cut to one length."""
    nouns, verbs = (words.split() for words in TOPICS[topic])
    words: list[str] = []
    while len(words) < LENGTH:
        subject, other = rng.choice(nouns, 2)
        plural = rng.random() < 0.5
        verb = rng.choice(verbs)
        adjective = [rng.choice(ADJECTIVES)] if rng.random() < 0.5 else []
        words += ["the", *adjective, f"{subject}s" if plural else subject]
        words += [verb if plural else f"{verb}s", "near", "the", other, "."]
    return words[:LENGTH]


rng = np.random.default_rng(0)
topics = rng.choice(list(TOPICS), 1500)
stories = [story(topic, rng) for topic in topics]
vocabulary = sorted({word for words in stories for word in words})
number = {word: i for i, word in enumerate(vocabulary)}
tokens = np.array([[number[word] for word in words] for words in stories])
train, test = tokens[:1200], tokens[1200:]


class Words:
    """The methods of a tokenizer that are needed here."""

    def decode(self, ids) -> str:
        return " ".join(vocabulary[i] for i in ids)

    def convert_ids_to_tokens(self, ids) -> list[str]:
        return [vocabulary[i] for i in ids]


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=len(vocabulary),
    n_positions=2 * LENGTH,
    n_embd=64,
    n_layer=1,
    n_head=4,
    bos_token_id=None,
    eos_token_id=None,
)
model = GPT2LMHeadModel(config)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(300):
    batch = torch.tensor(train)[torch.randint(len(train), (32,))]
    optimiser.zero_grad()
    logits = model(batch).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch[:, 1:].flatten()
    )
    loss.backward()
    optimiser.step()
model.eval()

# %%
# Features, and what they are worth
# ---------------------------------
# The extractor takes the name of a layer, as ``model.named_modules()`` has it; with
# ``positions="all"`` each token is a sample. Loss recovered is 1 if the model predicts
# new stories as well with the reconstruction as with the MLP itself, and 0 if as poorly
# as without it.

LAYER = "transformer.h.0.mlp"
extractor = ActivationExtractor(model, LAYER, positions="all")
activations = extractor.fit_transform(train)
sae = MFRSparseAutoencoder(64, k=4, max_steps=1500, random_state=0).fit(activations)
recovered, losses = loss_recovered(model, LAYER, sae, test, return_losses=True)
print(f"nats per word: {losses.clean:.3f}, without the MLP {losses.zero:.3f}")
print(f"with 4 of 64 atoms per word: {losses.spliced:.3f}, recovered {recovered:.4f}")
codes = sae.transform(activations)
returning = (sae.reappearance_ > 0.5) & (codes != 0).any(axis=0)
print(f"atoms that are likelier to return than not: {returning.sum()} of 64")

# %%
# Reading atoms
# -------------
# One pass finds the contexts where each atom is most active; products with the decoder
# head tell which words an atom makes likely.

contexts = top_contexts(sae, extractor, train, n_contexts=3, before=4, after=2)
effects = logit_effects(sae, model, n_tokens=4)
table = feature_table(sae, contexts=contexts, effects=effects, tokenizer=Words())
texts = contexts.to_frame(Words()).groupby("atom")["text"]
for atom, row in table[returning].nlargest(6, "agreement").iterrows():
    print(f"\natom {atom}, agreement {row['agreement']:.2f}", end=", ")
    print("makes likely:", *row["promoted"])
    for text in texts.get_group(atom):
        print("   ", text)

# %%
# Atoms of topics
# ---------------
# The model was never told a topic. Of the returning atoms that keep to the stories on
# one, and whose likeliest words are on it too, we take the most active. A topic without
# such an atom has none.

topic_of = {
    word + ending: topic
    for topic, kinds in TOPICS.items()
    for word in " ".join(kinds).split()
    for ending in ["", "s"]
}
codes = codes.reshape(*train.shape, -1)
activity = np.array([codes[topics[:1200] == t].mean(axis=(0, 1)) for t in TOPICS])
share = activity / activity.sum(axis=0).clip(1e-9)
likely = np.array(
    [[topic_of.get(vocabulary[i]) for i in ids] for ids in effects.promoted]
)
speaks = np.array([(likely == topic).all(axis=1) for topic in TOPICS])
own = np.where(returning & (share > 0.8) & speaks, activity, 0)
atoms = {t: row.argmax() for t, row in zip(TOPICS, own, strict=True) if row.any()}
for topic, atom in atoms.items():
    print(f"{topic:>8}: atom {atom}, returns with {sae.reappearance_[atom]:.2f}")

# %%
# Classifying stories by a few atoms
# ----------------------------------
# In a pipeline, the extractor codes what the model computes: with ``positions="max"`` a
# row has the largest code of each atom in a story. We show the classifier the first
# eight words only, and ask how many atoms it needs. The last lines are contexts of the
# five atoms that decide.

coder = ActivationExtractor(model, LAYER, positions="max", sae=FrozenEstimator(sae))
for n_atoms in (1, 2, 5, 64):
    chosen = SelectKBest(chi2, k=n_atoms)
    classifier = make_pipeline(coder, chosen, LogisticRegression(max_iter=1000))
    classifier.fit(train[:, :8], topics[:1200])
    accuracy = classifier.score(test[:, :8], topics[1200:])
    print(f"{n_atoms:2d} atoms: {accuracy:.0%} of the stories")
    if n_atoms == 5:
        deciding = chosen.get_support(indices=True)
for atom in deciding:
    print(f"atom {atom}:", *texts.get_group(atom)[:2], sep="\n    ")

# %%
# Which atoms speak for a word
# ----------------------------
# ``to_torch`` makes a PyTorch module of the SAE. The output of the MLP goes through it;
# with its error term, the module leaves the model as it is. The gradient of a word's
# logit with respect to the codes, times the codes, is what each atom adds to the logit,
# to first order. Taking an atom out with ``ablate`` shows what it really adds.

module = sae.to_torch(error_term=True)
kept = []


def keep(_, inputs, codes):
    codes.retain_grad()
    kept.append(codes)


def through_sae(_, inputs, output):
    return module(output)


context = torch.tensor(test[:1, :14])
handles = [
    model.get_submodule(LAYER).register_forward_hook(through_sae),
    module.codes.register_forward_hook(keep),
]
logits = model(context).logits[0, -1]
word = int(logits.argmax())
logits[word].backward()
for handle in handles:
    handle.remove()
attribution = (kept[0].grad * kept[0]).detach()[0].sum(0)

print("after:", Words().decode(context[0].tolist()))
print(f"likeliest is {vocabulary[word]!r}, of which the atoms add")
for atom in attribution.abs().topk(4).indices.tolist():
    with torch.no_grad(), ablate(model, LAYER, sae, [atom]):
        without = float(model(context).logits[0, -1, word])
    added = float(logits[word].detach()) - without
    print(
        f"atom {atom}: {attribution[atom]:6.2f} by its gradient, {added:6.2f} in fact"
    )

# %%
# Changing the topic
# ------------------
# Inside ``steer``, an atom has the code that we give it, at every word. The model
# continues 50 new stories after 8 words; we count the topics of the words that it adds.

N_GIVEN = 8
prompts = torch.tensor(test[:50, :N_GIVEN])


def continued() -> np.ndarray:
    """Words that the model adds, (50, 24)."""
    torch.manual_seed(0)
    whole = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=LENGTH - N_GIVEN,
        do_sample=True,
        pad_token_id=0,
    )
    return whole[:, N_GIVEN:].numpy()


def told(added: np.ndarray) -> list[float]:
    """Share of each topic in words that have one."""
    found = [topic_of.get(vocabulary[i]) for i in added.ravel()]
    n_found = sum(topic is not None for topic in found)
    return [found.count(topic) / n_found for topic in TOPICS]


added = continued()
shares = {"as it is": told(added)}
print("story:   ", Words().decode(prompts[0].tolist()))
print("goes on: ", Words().decode(added[0]))
for topic, atom in atoms.items():
    often_reached = np.quantile(codes[..., atom][codes[..., atom] > 0], 0.99)
    with steer(model, LAYER, sae, atom, 1.5 * often_reached):
        added = continued()
    shares[f"atom {atom}"] = told(added)
    print(f"{topic:>8}:", Words().decode(added[0]))

# %%
# The atoms follow the topic of a story, and setting one of them changes it. The
# model then writes less correct sentences: an atom that is active at every word is
# something that it has never seen.

fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
names = [f"atom {atom}" for atom in atoms.values()]
of_atoms = share[:, list(atoms.values())].T
panels = [
    ("Where atoms are active", names, of_atoms, "Share of an atom's activity"),
    ("What steering does", list(shares), list(shares.values()), "Share of added words"),
]
for ax, (title, rows, values, label) in zip(axes, panels, strict=True):
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        color = "white" if value > 0.6 else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(TOPICS)), list(TOPICS))
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title)
    fig.colorbar(image, ax=ax, label=label)
axes[0].set_xlabel("Topic of the story")
axes[1].set_xlabel("Topic of the words that the model adds")
axes[1].set_ylabel("Atom that is set")
plt.show()
