"""Fits in two processes of torchrun against fits in one."""

import json
import os
import warnings
import weakref
from datetime import timedelta

import numpy as np
import pytest
import torch
from forks import CONTEXT
from sklearn.exceptions import ConvergenceWarning
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from skmfr import MFRSparseAutoencoder
from skmfr._data.batches import Batches
from skmfr._training.objective import add_auxiliary_
from skmfr._utils.workers import ALONE, Workers
from skmfr.distributed import data_parallel

# All that training does: a penalty, matching, dead atoms, restarts, pursuit, holding
# out, witnesses with rows of their own.  In float64, so that rounding, which differs
# where sums are in parts, does not decide which atom is the k-th.
PARAMETERS = {
    "n_components": 48,
    "n_witnesses": 2,
    "witness_rows": "disjoint",
    "k": 3,
    "max_steps": 60,
    "batch_size": 40,
    "reinit_threshold": 0.03,
    "reinit_every": 10,
    "early_stopping": True,
    "transform_algorithm": "omp",
    "precision": "float64",
    "random_state": 0,
}
FITTED = ("dictionaries_", "witness_dictionaries_", "encoder_weights_", "loss_curve_")


def data():
    rng = np.random.default_rng(0)
    codes = rng.random((500, 24)) * (rng.random((500, 24)) < 3 / 24)
    return codes @ rng.standard_normal((24, 10))


def run(folder):
    """Run :func:`main` in two processes, as torchrun does with a script."""
    for i, part in enumerate(np.split(data(), [200])):
        np.save(folder / f"{i}.npy", part)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method=CONTEXT.get_start_method(),
    )
    elastic_launch(config, main)(folder)


def main(folder):
    warnings.simplefilter("ignore")
    process = CONTEXT.Process(target=lose, args=(folder,))
    process.start()
    process.join()

    with data_parallel(timeout=30) as rank:
        group = weakref.ref(torch.distributed.group.WORLD)
        n_checkpoints = len(list((folder / "fits").iterdir()))
        # A step before the last checkpoint, which it must not come by again.
        sae = fit(folder, rank, death=25)
        if rank == 0:
            np.savez(
                folder / "fitted.npz", **{name: getattr(sae, name) for name in FITTED}
            )
        messages = {}
        for name, values in {
            "seed": {"random_state": rank},
            "alpha": {"alpha": 0.5 + rank},
            "batch": {"batch_size": 41},
            "data": {},
            "order": {},
        }.items():
            X = np.eye(64) * (1 + rank if name == "data" else 1)
            if name == "order" and rank == 1:
                X = X[::-1]
            try:
                MFRSparseAutoencoder(**(PARAMETERS | values)).fit(X)
            except ValueError as error:
                messages[name] = str(error)
        said = json.dumps([process.exitcode, n_checkpoints, messages])
        (folder / f"{rank}.json").write_text(said)
    # Its threads would abort the process as it ends.
    assert group() is None, "something keeps the group alive"


def lose(folder):
    """A fit of which process 1 dies."""
    rank = int(os.environ["RANK"])
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    with data_parallel():
        fit(folder, rank, death=37)


def fit(folder, rank, death):
    def die(step, info):
        if rank == 1 and step == death:
            os._exit(9)  # at once, like a signal, which Windows does not have

    return MFRSparseAutoencoder(
        **PARAMETERS, checkpoint_dir=folder / "fits", checkpoint_every=10, callback=die
    ).fit([folder / f"{i}.npy" for i in range(2)])


@pytest.fixture(scope="module")
def alone():
    """The fit in one process."""
    steps, n_dead = [], []

    def note_dead(*arguments):
        n_dead.append(sum(map(len, arguments[4])))
        add_auxiliary_(*arguments)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("skmfr._training.step.add_auxiliary_", note_dead)
        warnings.simplefilter("ignore", ConvergenceWarning)
        sae = MFRSparseAutoencoder(
            **PARAMETERS, callback=lambda step, info: steps.append(info)
        ).fit(data())
    # SAEs were started anew, atoms died, and the penalty was on.
    assert sae.n_reinits_.sum() > 0
    assert max(n_dead) > 0
    assert max(info["alpha"] for info in steps) > 0.5
    return sae


@pytest.fixture(scope="module")
def lost_and_resumed(tmp_path_factory, call_in_process, alone):
    """Folder of a fit that lost a process, and of the same one resumed.

    After the one alone, which has compiled the kernels for all of them.
    """
    folder = tmp_path_factory.mktemp("distributed")
    ended = call_in_process(run, folder)
    assert ended.exitcode == 0, ended.result
    return folder


@pytest.fixture(scope="module")
def reports(lost_and_resumed):
    """What each process says: how it lost the other, checkpoints, and refusals."""
    return [
        json.loads((lost_and_resumed / f"{rank}.json").read_text()) for rank in (0, 1)
    ]


def test_whoever_loses_a_process_ends_and_leaves_its_checkpoint(reports):
    (survivor, n_checkpoints, _), (lost, *_) = reports
    assert lost == 9
    assert survivor == 1  # an error
    assert n_checkpoints == 2


def test_two_processes_of_which_one_was_lost_reach_the_result_of_one(
    lost_and_resumed, alone
):
    with np.load(lost_and_resumed / "fitted.npz") as fitted:
        for name in FITTED:
            expected = getattr(alone, name)
            np.testing.assert_allclose(fitted[name], expected, rtol=0, atol=1e-6)


def test_processes_that_fit_something_else_are_refused(reports):
    messages = [said for *_, said in reports]
    assert (
        "process 0 has alpha=0.5 and process 1 has alpha=1.5" in (messages[0]["alpha"])
    )
    assert (
        "process 1 has alpha=1.5 and process 0 has alpha=0.5" in (messages[1]["alpha"])
    )
    for rank in (0, 1):
        assert "has seed drawn from random_state=" in messages[rank]["seed"]
        assert "has hash of X=" in messages[rank]["data"]
        assert "has hash of X=" in messages[rank]["order"]
        assert "batch_size=41 " in messages[rank]["batch"]
        assert "number of processes, 2" in messages[rank]["batch"]


def test_another_number_of_processes_does_not_resume(lost_and_resumed):
    sae = MFRSparseAutoencoder(
        **PARAMETERS, checkpoint_dir=lost_and_resumed / "fits", checkpoint_every=10
    )
    message = "with world_size=2, but this fit has world_size=1"
    with pytest.raises(ValueError, match=message):
        sae.fit(data())


def test_parts_of_the_workers_are_the_rows():
    rows = np.arange(100, 117)
    parts = [Workers(rank, 3).part(rows) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    np.testing.assert_array_equal(ALONE.part(rows), rows)


def test_each_worker_reads_its_part_of_a_batch():
    X = np.arange(60.0)[:, None]
    batches = [Batches(X, None, 10, True, 0, workers=Workers(i, 2)) for i in range(2)]
    for number, parts in enumerate(
        zip(*(b.in_turn(0, 9) for b in batches), strict=True)
    ):
        assert [len(part) for part in parts] == [5, 5]
        np.testing.assert_array_equal(np.concatenate(parts), batches[0][number])


def test_without_torchrun_it_says_how_to_start(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="torchrun --nproc-per-node"):
        data_parallel().__enter__()
