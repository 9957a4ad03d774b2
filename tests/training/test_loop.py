"""Training against torch.optim and autograd, and against itself in other company."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import skmfr._data.batches
import skmfr._training.loop
import skmfr._training.objective
import skmfr._training.step
from skmfr._data.batches import Batches
from skmfr._data.standardiser import Standardiser
from skmfr._sae.encoder import encode
from skmfr._sae.ensemble import Ensemble
from skmfr._sae.levels import random_agreement
from skmfr._sae.pursuit import omp_coder
from skmfr._training.activity import DEAD_INTERVAL, RATE_MEMORY, Activity
from skmfr._training.checkpoint import from_arrays, to_arrays
from skmfr._training.initial import initial_atoms, untrained
from skmfr._training.loop import due, group_fvu, train
from skmfr._training.matches import Matches
from skmfr._training.objective import AUXILIARY_K, PUSH
from skmfr._training.optimiser import BETAS, ENCODER_RATE
from skmfr._training.revive import restart_atoms, restart_member
from skmfr._training.schedule import Plateau, Schedule, Stage
from skmfr._training.state import new_state
from skmfr._training.step import gradient_buffers, take_step
from skmfr._utils.workers import ALONE
from skmfr.agreement import feature_agreement, mmcs

NAMES = ("encoder", "encoder_bias", "decoder", "decoder_bias")
N_FEATURES = 8


def sparse_data(n_samples=500, dtype=np.float64):
    """Samples made of three of 16 features each."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((16, N_FEATURES))
    codes = rng.random((n_samples, 16)) * (rng.random((n_samples, 16)) < 3 / 16)
    return (codes @ features + rng.standard_normal(N_FEATURES)).astype(dtype)


def source(settings, X=None, batch_size=64):
    X = sparse_data() if X is None else X
    batches = Batches(X, np.arange(len(X)), batch_size, True, settings.seed)
    return batches, Standardiser.of(X)


def fresh(settings, X=None):
    _, standardiser = source(settings, X)
    return new_state(untrained(standardiser, settings), settings)


def trained(settings, n_steps, ensemble=None, X=None):
    """State after a whole schedule of so many steps."""
    batches, standardiser = source(settings, X)
    if ensemble is None:
        ensemble = untrained(standardiser, settings)
    state = new_state(ensemble, settings)
    state.begin(Schedule.over(n_steps, anneal_k=True), Plateau())
    train(state, batches, standardiser, settings)
    return state


def standardised(settings, n_samples=64):
    X = sparse_data()
    return Standardiser.of(X)(X[:n_samples].copy(), "cpu", settings.dtype)


def one_step(state, settings, X, k=None, alpha=0.0):
    if state.n_steps == len(state.losses):
        state.begin(Schedule.constant(100), Plateau())
    k = k or settings.k
    stage = Stage(k, "topk", alpha, settings.learning_rate, pursue=False)
    take_step(state, X, stage, gradient_buffers(state))


def moments(state, i):
    """Adam's memory of one member, parameter by parameter."""
    return [
        {name: value.clone() for name, value in state.optimiser.state[p].items()}
        for p in state.parameters(i)
    ]


def assert_same_saes(one, other, rtol):
    # atol for entries near 0; weights are of size 0.1.
    for name in NAMES:
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol
        )


@pytest.fixture
def all_dead(monkeypatch):
    """All atoms take part in the auxiliary loss, but those just restarted."""
    monkeypatch.setattr(skmfr._training.activity, "DEAD_AFTER_STEPS", 0)
    monkeypatch.setattr(skmfr._training.activity, "DEAD_AFTER_SAMPLES", 0)


@pytest.mark.parametrize("tied", [False, True])
def test_initial_atoms_depend_neither_on_group_size_nor_on_witnesses(
    make_settings, tied
):
    few = make_settings(n_saes=2, n_witnesses=1, tied=tied)
    many = make_settings(n_saes=5, n_witnesses=3, tied=tied)
    small, large = (untrained(source(each)[1], each) for each in (few, many))
    assert torch.equal(small.decoder[:2], large.decoder[:2])
    assert torch.equal(small.decoder[2], large.decoder[5])
    distinct = {atoms.numpy().tobytes() for atoms in large.decoder}
    assert len(distinct) == 8


def test_saes_of_two_seeds_start_as_unlike_as_random_directions(make_settings):
    X = np.random.default_rng(0).standard_normal((100, 64)) + 5
    X[:, 0] = 3.0
    standardiser = Standardiser.of(X)
    one, other = (
        initial_atoms(standardiser, make_settings(n_components=256, seed=seed), 0)
        for seed in (0, 1)
    )
    torch.testing.assert_close(one.norm(dim=1), one.new_ones(256))
    # Nothing has a share in a feature that is constant.
    assert not one[:, 0].any()
    agreement = feature_agreement(one.numpy(), [other.numpy()]).mean()
    # Of 256 atoms: the mean of so many largest cosines is good to .004.
    assert agreement == pytest.approx(random_agreement(63, 256), abs=0.02)


@pytest.mark.parametrize("tied", [False, True])
def test_without_penalty_each_sae_trains_as_if_alone(make_settings, tied):
    settings = make_settings(n_saes=3, tied=tied)
    together = trained(settings, 50)
    start = fresh(settings).ensemble.decoder
    for i in range(3):
        own = Ensemble.starting_from(start[i : i + 1].clone(), tied)
        alone = trained(make_settings(n_saes=1, tied=tied), 50, ensemble=own)
        assert_same_saes(alone.ensemble, together.ensemble[i : i + 1], rtol=1e-9)
        torch.testing.assert_close(alone.losses[:, 0], together.losses[:, i])


def test_witnesses_do_not_change_the_group(make_settings, all_dead):
    changes = {
        "alpha": 0.3,
        "reinit_every": 10,
        "reinit_threshold": 0.01,
    }
    without = trained(make_settings(n_saes=2, n_witnesses=0, **changes), 60)
    with_two = trained(make_settings(n_saes=2, n_witnesses=2, **changes), 60)
    assert without.n_reinits.any()
    np.testing.assert_array_equal(with_two.n_reinits[:2], without.n_reinits)
    assert_same_saes(with_two.ensemble[:2], without.ensemble, rtol=1e-9)


def test_penalty_raises_agreement_of_the_group_and_not_of_witnesses(make_settings):
    def agreement(state):
        pairs = combinations(state.ensemble.decoder[:3].numpy(), 2)
        return np.mean([mmcs(*pair) for pair in pairs])

    free = trained(make_settings(alpha=0.0, n_witnesses=1), 150)
    for matching in ("hungarian", "max"):
        changes = {"alpha": 10.0, "n_witnesses": 1, "matching": matching}
        pulled = trained(make_settings(**changes), 150)
        assert agreement(pulled) > agreement(free) + 0.03
        for name in NAMES:
            one, other = (getattr(state.ensemble, name) for state in (free, pulled))
            assert torch.equal(one[3:], other[3:])
            assert not torch.equal(one[:3], other[:3])


def dense_top_k(scores, k):
    values, indices = scores.relu().topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, indices, values)


def dense_loss(X, leaves, tied, k, alpha, edges, matching="hungarian", dead=()):
    """Loss of a batch by its definition, dense, for autograd.

    An atom without match counts with a cosine of 0, which has no gradient.
    """
    atoms = normalize(leaves["decoder"], dim=2)
    encoder = atoms if tied else leaves["encoder"]
    bias = leaves["decoder_bias"].unsqueeze(1)
    scores = (X - bias) @ encoder.transpose(1, 2) + leaves["encoder_bias"].unsqueeze(1)
    codes = dense_top_k(scores, k)
    residual = X - codes @ atoms - bias
    fvu = residual.square().sum() / (len(X) * X.shape[1])
    for i, chosen in enumerate(dead):
        # Neither the residual nor the decoder bias follows the auxiliary loss.
        E, c = encoder[i, chosen], leaves["encoder_bias"][i, chosen]
        scores = (X - bias[i].detach()) @ E.T + c
        codes = dense_top_k(scores, min(AUXILIARY_K, len(chosen)))
        left = residual[i].detach() - codes @ atoms[i, chosen]
        fvu = fvu + left.square().sum() / (len(X) * X.shape[1]) - PUSH * c.sum()
    n_matches = atoms.shape[1] * (1 if matching == "hungarian" else 2)
    cosines = [
        (atoms[i, own] * atoms[j, others]).sum() / n_matches
        for (i, j), (own, others) in edges.items()
    ]
    return fvu + alpha * (1 - torch.stack(cosines).mean())


# Of each SAE: atoms that take part in the auxiliary loss, whether dead or not.
NONE_DEAD = [torch.arange(0)] * 3
SOME_DEAD = [torch.tensor([4]), torch.arange(0), torch.arange(20) + 2]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("matching", ["hungarian", "max"])
@pytest.mark.parametrize("dead", [NONE_DEAD, SOME_DEAD])
def test_steps_equal_those_of_adam_on_autograd_gradients(
    make_settings, tied, matching, dead, monkeypatch
):
    monkeypatch.setattr(
        Activity, "look_for_dead", lambda self, _: setattr(self, "dead", list(dead))
    )
    settings = make_settings(n_saes=3, tied=tied, matching=matching)
    state, X, alpha = fresh(settings), standardised(settings), 0.4
    state.activity.dead = dead
    for pair in state.matches.pairs:
        state.matches.renew(state.ensemble.decoder, pair)

    leaves = {name: getattr(state.ensemble, name).clone() for name in NAMES}
    if tied:
        del leaves["encoder"]
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    rate = settings.learning_rate
    slow = {"params": [], "lr": ENCODER_RATE * rate}
    fast = {"params": [], "lr": rate}
    for name, leaf in leaves.items():
        group = fast if name == "decoder" or tied else slow
        group["params"].append(leaf)
    adam = torch.optim.Adam([slow, fast], betas=BETAS)
    for _ in range(8):
        one_step(state, settings, X, alpha=alpha)
        adam.zero_grad()
        edges = state.matches.edges
        loss = dense_loss(X, leaves, tied, settings.k, alpha, edges, matching, dead)
        loss.backward()
        adam.step()
        with torch.no_grad():
            leaves["decoder"].copy_(normalize(leaves["decoder"], dim=2))
        for name, leaf in leaves.items():
            torch.testing.assert_close(
                getattr(state.ensemble, name), leaf.detach(), rtol=1e-9, atol=1e-10
            )


def test_step_does_not_depend_on_how_many_members_are_computed_together(
    make_settings, monkeypatch
):
    # Of different members, from the first step on.
    dead = [torch.arange(i) + 3 for i in (2, 0, 1, 7, 4)]
    monkeypatch.setattr(
        Activity, "look_for_dead", lambda self, _: setattr(self, "dead", list(dead))
    )
    settings = make_settings(n_saes=3, n_witnesses=2, alpha=0.5)
    together = trained(settings, 30)
    for n_together in (1, 2, 4):
        size = n_together * 64 * settings.n_components
        monkeypatch.setitem(skmfr._training.step.SMALL, "cpu", size)
        apart = trained(settings, 30)
        assert_same_saes(apart.ensemble, together.ensemble, rtol=1e-9)
        torch.testing.assert_close(apart.activity.rates, together.activity.rates)
        assert torch.equal(apart.activity.idle, together.activity.idle)


def test_atoms_keep_unit_norm(make_settings):
    state = trained(make_settings(alpha=0.5), 30)
    norms = torch.linalg.vector_norm(state.ensemble.decoder, dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-14, atol=0)


def test_rates_and_idle_steps_equal_counting(make_settings):
    settings = make_settings(n_saes=2)
    state = fresh(settings)
    rates = np.full((2, settings.n_components), settings.k / settings.n_components)
    idle = np.zeros(rates.shape, dtype=int)
    X = standardised(settings, n_samples=80)
    for batch in X.split(8):
        codes = encode(state.ensemble.centred(batch), state.ensemble, settings.k)
        atoms = codes.indices[codes.values > 0]
        counts = np.bincount(atoms, minlength=rates.size).reshape(rates.shape)
        rates += (counts / len(batch) - rates) / RATE_MEMORY
        idle = np.where(counts > 0, 0, idle + 1)
        one_step(state, settings, batch)
    assert idle.any()
    np.testing.assert_allclose(state.activity.rates, rates, rtol=1e-12)
    np.testing.assert_array_equal(state.activity.idle, idle)


def test_auxiliary_loss_moves_dead_atoms(make_settings):
    settings = make_settings(n_saes=2)
    state, X = fresh(settings), standardised(settings)
    # The first atom of an SAE is never among the k largest, the second never positive.
    state.ensemble.encoder[:, 0] *= 1e-6
    state.ensemble.encoder_bias[:, 1] = -1e6
    state.activity.idle[:, :2] = 7
    state.activity.dead = [torch.arange(2), torch.arange(0)]
    one_step(state, settings, X)
    for place in range(3):  # encoder, its bias, decoder
        gradients = torch.stack([state.parameters(i)[place].grad for i in range(2)])
        moved = gradients.view(2, settings.n_components, -1).any(2)
        # The bias is pushed up, whatever the samples.
        assert moved[:, :2].tolist() == [[True, place == 1], [False, False]]
    assert (state.activity.idle[:, :2] == 8).all()


@pytest.mark.parametrize(
    ("n_samples", "k", "after"),
    [
        (64, 3, 5),  # 8 samples of each batch have an average atom: 40 in 5
        (640, 3, 5),
        (8, 3, 40),
        (8, 6, 20),
    ],
)
def test_dead_atoms_were_not_active_where_others_were_often(
    make_settings, n_samples, k, after
):
    settings = make_settings(n_saes=2, n_witnesses=1)
    state = fresh(settings)
    state.ensemble.encoder_bias[0, [3, 5]] = -1e6
    state.ensemble.encoder_bias[1, 7] = -1e6
    state.activity.idle[0, 3] = after - 1
    state.activity.idle[0, 5] = after - 2
    state.activity.idle[1, 7] = after
    X = sparse_data(n_samples)
    X = Standardiser.of(X)(X, "cpu", settings.dtype)
    one_step(state, settings, X, k)
    assert [atoms.tolist() for atoms in state.activity.dead] == [[3], [7], []]
    # They are looked for again after five steps.
    state.activity.idle[0, 5] = 1000
    for _ in range(5):
        assert [atoms.tolist() for atoms in state.activity.dead] == [[3], [7], []]
        one_step(state, settings, X, k)
    assert [atoms.tolist() for atoms in state.activity.dead] == [[3, 5], [7], []]


def test_losses_are_the_fvu_of_each_batch_before_the_step(make_settings):
    settings = make_settings(n_saes=2)
    state, X = fresh(settings), standardised(settings)
    for _ in range(3):
        ensemble = state.ensemble
        leaves = {name: getattr(ensemble, name).clone() for name in NAMES}
        one_step(state, settings, X)
        for i in range(2):
            own = {name: leaf[i : i + 1] for name, leaf in leaves.items()}
            no_pull = {(0, 0): (np.arange(1), np.arange(1))}
            expected = dense_loss(X, own, False, settings.k, 0.0, no_pull)
            torch.testing.assert_close(state.losses[state.n_steps - 1, i], expected)


@pytest.mark.parametrize("tied", [False, True])
def test_restarted_member_goes_on_as_a_new_one(make_settings, tied):
    settings = make_settings(n_saes=3, tied=tied)
    state, X = fresh(settings), standardised(settings)
    for _ in range(5):
        one_step(state, settings, X)
    others = [moments(state, 0), moments(state, 2)]
    own = initial_atoms(source(settings)[1], settings, i=1, attempt=1)
    state.activity.dead = [torch.arange(3), torch.arange(4), torch.arange(0)]
    restart_member(state, settings, 1, own)
    assert [len(atoms) for atoms in state.activity.dead] == [3, 0, 0]

    assert all(not value.any() for each in moments(state, 1) for value in each.values())
    for i, before in zip((0, 2), others, strict=True):
        for one, other in zip(before, moments(state, i), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
    np.testing.assert_array_equal(state.n_reinits, [0, 1, 0])

    alone = make_settings(n_saes=1, tied=tied)
    new = new_state(Ensemble.starting_from(own[None].clone(), tied), alone)
    for _ in range(10):
        one_step(state, settings, X)
        one_step(new, alone, X)
    assert_same_saes(state.ensemble[1:2], new.ensemble, rtol=1e-9)
    torch.testing.assert_close(state.activity.rates[1:2], new.activity.rates)
    assert torch.equal(state.activity.idle[1:2], new.activity.idle)


def test_pursuing_dictionaries_follow_the_codes_of_matching_pursuit(make_settings):
    settings = make_settings(n_saes=2, n_witnesses=1)
    state, X = fresh(settings), standardised(settings)
    expected = state.ensemble.decoder.clone().requires_grad_()
    encoder = fresh(settings)
    one_step(encoder, settings, X)
    losses = []
    for i in range(3):
        codes = omp_coder(state.ensemble[i : i + 1], settings.k)(X)
        dense = torch.zeros(len(X), settings.n_components, dtype=X.dtype)
        dense.scatter_(1, codes.indices, codes.values)
        X_hat = dense @ normalize(expected[i], dim=1) + state.ensemble.decoder_bias[i]
        losses.append((X - X_hat).square().sum() / X.numel())
    sum(losses).backward()
    state.begin(Schedule.constant(1), Plateau())
    stage = Stage(settings.k, "topk", 0.0, settings.learning_rate, pursue=True)
    take_step(state, X, stage, gradient_buffers(state))
    # The gradients are still there after the step.
    found = torch.stack([state.parameters(i)[2].grad for i in range(3)])
    torch.testing.assert_close(found, expected.grad, rtol=1e-6, atol=1e-9)
    # Encoders go their way.
    assert torch.equal(state.ensemble.encoder, encoder.ensemble.encoder)
    torch.testing.assert_close(state.losses[0], torch.stack(losses).detach())


def test_restarted_member_loses_its_matches(make_settings):
    settings = make_settings(n_saes=3, alpha=0.5)
    state = trained(settings, 10)
    before = {pair: edges.shape[1] for pair, edges in state.matches.edges.items()}
    assert all(before.values())
    atoms = initial_atoms(source(settings)[1], settings, i=1, attempt=1)
    restart_member(state, settings, 1, atoms)
    left = {pair: edges.shape[1] for pair, edges in state.matches.edges.items()}
    assert left == {(0, 1): 0, (1, 2): 0, (0, 2): before[0, 2]}


@pytest.mark.parametrize("tied", [False, True])
def test_restarted_atoms_forget_their_direction_but_not_their_scale(
    make_settings, tied
):
    settings = make_settings(n_saes=2, tied=tied)
    state = trained(settings, 20)
    before = moments(state, 1)
    atoms = torch.tensor([2, 5])
    directions = torch.eye(2, N_FEATURES, dtype=torch.float64)
    state.activity.idle[1] = 7
    state.activity.dead = [torch.arange(6), torch.arange(6)]
    restart_atoms(state, 1, atoms, directions)
    assert (state.activity.idle[1] == 0).nonzero()[:, 0].tolist() == [2, 5]
    assert [atoms.tolist() for atoms in state.activity.dead] == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 3, 4],
    ]

    assert torch.equal(state.ensemble.decoder[1, atoms], directions)
    assert torch.equal(state.ensemble.encoder[1, atoms], directions)
    assert not state.ensemble.encoder_bias[1, atoms].any()
    for one, other in zip(before[:-1], moments(state, 1)[:-1], strict=True):
        one["exp_avg"][atoms] = 0
        one["exp_avg_sq"][atoms] = one["exp_avg_sq"].mean(0)
        assert all(torch.equal(one[name], other[name]) for name in one)
    # The decoder bias has no atoms.
    bias_before, bias_after = before[-1], moments(state, 1)[-1]
    assert all(torch.equal(bias_before[name], bias_after[name]) for name in bias_before)


def test_atoms_come_alive_by_the_auxiliary_loss(make_settings, monkeypatch):
    def dead_after_training():
        # Encoders have a third of the rate.
        settings = make_settings(n_saes=1, k=1, learning_rate=0.03)
        ensemble = fresh(settings).ensemble
        # Each is positive where another one is, but never the largest.
        ensemble.encoder[0, ::2] = 1e-3 * ensemble.encoder[0, 1::2]
        state = trained(settings, 300, ensemble=ensemble)
        return (state.activity.idle[0, ::2] >= 20).double().mean()

    # Some of so many atoms find nothing to do.
    assert dead_after_training() < 0.6
    monkeypatch.setattr(skmfr._training.activity, "DEAD_AFTER_STEPS", 10**9)
    assert dead_after_training() > 0.8


def test_atoms_that_no_sample_activates_are_pushed_until_one_does(
    make_settings, monkeypatch
):
    def dead_after_training():
        settings = make_settings(n_saes=1)
        ensemble = fresh(settings).ensemble
        # So that pre-activations are negative.
        ensemble.encoder_bias[0, ::2] = -4.0
        state = trained(settings, 300, ensemble=ensemble)
        return (state.activity.idle[0, ::2] >= 20).double().mean()

    # Some of so many atoms find nothing to do.
    assert dead_after_training() < 0.85
    monkeypatch.setattr(skmfr._training.objective, "PUSH", 0.0)
    assert dead_after_training() > 0.9


def test_sae_with_skewed_activity_starts_anew_in_the_first_half_only(make_settings):
    # Every SAE exceeds this threshold whenever it is looked at.
    settings = make_settings(n_saes=2, reinit_threshold=0.0, reinit_every=10)
    assert (trained(settings, 20).n_reinits == 0).all()  # 10 is not before half
    assert (trained(settings, 22).n_reinits == 1).all()
    assert (trained(settings, 50).n_reinits == 2).all()
    assert (trained(settings, 120).n_reinits == 3).all()


def test_pairs_take_turns_in_being_matched_again(make_settings, monkeypatch):
    renewed = []
    settings = make_settings(n_saes=3, alpha=0.5)
    state = fresh(settings)

    def renew(matches, dictionaries, pair):
        renewed.append((state.step, pair))
        own = np.arange(settings.n_components)
        matches.edges[pair] = np.stack([own, own])

    monkeypatch.setattr(Matches, "renew", renew)
    state.begin(Schedule.over(70, anneal_k=True), Plateau())
    train(state, *source(settings), settings)
    # The penalty is on from step 35, when k has its value, to step 63.
    first = [(35, (0, 1)), (35, (0, 2)), (35, (1, 2))]
    turns = [(48, (0, 1))]
    assert renewed == first + turns


def learning_rates(state, settings, **options):
    """Train to the end, noting the learning rate of each step."""
    rates = []

    def note(state):
        rates.append(state.optimiser.learning_rate / settings.learning_rate)
        return False

    train(state, *source(settings), settings, after_step=note, **options)
    return rates


def test_held_out_samples_that_stall_skip_to_the_final_fall(make_settings):
    settings = make_settings(n_saes=2)
    state = fresh(settings)
    # No gain is ever as large as this; the first check has nothing to compare with.
    state.begin(Schedule.over(400, anneal_k=True), Plateau(tol=100.0, patience=1))
    rates = learning_rates(state, settings, validation=np.arange(50))
    assert state.step == state.schedule.n_steps == 100 + 100
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:100], 1)
    np.testing.assert_allclose(rates[100:], np.arange(100, 0, -1) / 100)


def test_without_held_out_samples_training_takes_all_planned_steps(make_settings):
    settings = make_settings(n_saes=1)
    state = fresh(settings)
    state.begin(Schedule.over(200, anneal_k=True), Plateau(tol=100.0, patience=1))
    assert len(learning_rates(state, settings)) == state.n_steps == 200


def test_training_ends_when_told_to(make_settings):
    settings = make_settings(n_saes=1)
    state = fresh(settings)
    state.begin(Schedule.over(200, anneal_k=True), Plateau())
    train(state, *source(settings), settings, after_step=lambda state: state.step == 7)
    assert state.step == state.n_steps == 7


def test_group_fvu_is_of_the_codes_of_the_stage(make_settings):
    """Those of a batch, where samples share their active atoms."""
    settings = make_settings(activation="batchtopk")
    state = fresh(settings)
    batches, standardiser = source(settings)
    rows = np.arange(60)
    found = {}
    for name in ("topk", "batchtopk"):
        stage = state.schedule.stage(0, settings)._replace(activation=name)
        found[name] = group_fvu(
            state, batches.X, rows, standardiser, settings, ALONE, stage
        )
    group = state.ensemble[: settings.n_saes]
    Z = standardiser(batches.X[rows].copy(), "cpu", torch.float64)
    scores = group.centred(Z) @ group.encoder.mT + group.encoder_bias.unsqueeze(1)
    scores = scores.relu()
    fvu = 0.0
    for i, each in enumerate(scores):
        largest = each.topk(2 * settings.k, dim=1).values[:, -1:]
        each = torch.where(each >= largest, each, 0.0)
        smallest = each.flatten().topk(len(rows) * settings.k).values[-1]
        codes = torch.where(each >= smallest, each, 0.0)
        left = Z - codes @ group.decoder[i] - group.decoder_bias[i]
        fvu += float(left.square().sum()) / Z.numel() / len(scores)
    assert found["batchtopk"] == pytest.approx(fvu, rel=1e-9)
    assert found["topk"] != pytest.approx(fvu, rel=1e-3)


@pytest.mark.parametrize("n_per_block", [1000, 9])
def test_group_fvu_equals_dense_reconstruction(make_settings, monkeypatch, n_per_block):
    settings = make_settings(n_saes=3, n_witnesses=1)
    state = trained(settings, 20)
    X = sparse_data()
    before = X.copy()
    standardiser = Standardiser.of(X)
    rows = np.arange(5, 400, 3)
    monkeypatch.setattr(skmfr._data.batches, "BLOCK_BYTES", n_per_block * X[0].nbytes)
    stage = state.schedule.stage(0, settings)
    found = group_fvu(state, X, rows, standardiser, settings, ALONE, stage)

    Z = standardiser(X[rows], "cpu", torch.float64)
    group = {name: getattr(state.ensemble, name)[:3] for name in NAMES}
    no_pull = {(0, 0): (np.arange(1), np.arange(1))}
    total = dense_loss(Z, group, False, settings.k, 0.0, no_pull)
    assert found == pytest.approx(float(total) / 3, rel=1e-10)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True, "matching": "max"},
        {"dtype": torch.float32, "low_precision": True, "n_witnesses": 0},
        {"n_saes": 1, "n_witnesses": 0},
    ],
)
def test_resumed_training_ends_with_the_same_bytes(
    make_settings, changes, all_dead, monkeypatch
):
    monkeypatch.setattr(skmfr._training.loop, "STEPS_PER_CHECK", 20)
    usual = {
        "n_saes": 3,
        "n_witnesses": 1,
        "alpha": 0.3,
        "reinit_every": 15,
        "reinit_threshold": 0.03,
    }
    settings = make_settings(**(usual | changes))

    def run(interruptions):
        state = fresh(settings)
        state.begin(Schedule.over(160, anneal_k=True), Plateau(tol=100.0, patience=1))
        for step in interruptions:
            train(
                state,
                *source(settings),
                settings,
                np.arange(50),
                after_step=lambda state, step=step: state.step == step,
            )
            assert state.step == step
            state = from_arrays(to_arrays(state), settings)
        train(state, *source(settings), settings, np.arange(50))
        return to_arrays(state)

    whole, resumed = run([]), run([1, 17, 50, 70])
    # At 40 the final fall began.
    assert whole["step"] == 80
    assert whole["n_reinits"].any()
    assert resumed.keys() == whole.keys()
    for name, array in whole.items():
        assert resumed[name].dtype == array.dtype
        assert resumed[name].tobytes() == array.tobytes(), name


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("tied", [False, True])
def test_training_on_a_gpu_is_that_on_the_cpu(make_settings, tied, all_dead):
    states = [
        trained(make_settings(alpha=0.1, tied=tied, device=device), 20)
        for device in ("cpu", "cuda")
    ]
    settings = make_settings(tied=tied)
    here, there = (from_arrays(to_arrays(state), settings) for state in states)
    assert_same_saes(here.ensemble, there.ensemble, rtol=1e-9)


@on_a_gpu
@pytest.mark.parametrize("low_precision", [False, True])
def test_steps_on_a_gpu_do_not_wait_for_it(make_settings, low_precision, all_dead):
    settings = make_settings(
        alpha=0.1,
        n_witnesses=1,
        device="cuda",
        dtype=torch.float32,
        low_precision=low_precision,
    )
    batches, standardiser = source(settings, sparse_data(dtype=np.float32))
    state = new_state(untrained(standardiser, settings), settings)
    # Less than from one matching to the next, which is made on the CPU.
    state.begin(Schedule.constant(12), Plateau())

    def forbid_waiting(state):
        # In the first steps kernels are compiled and the moments of Adam made, and now
        # and then dead atoms are looked for.
        may_wait = state.step <= 2 or due(state.step, DEAD_INTERVAL)
        torch.cuda.set_sync_debug_mode("default" if may_wait else "error")
        return False

    try:
        train(state, batches, standardiser, settings, after_step=forbid_waiting)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.step == 12
