"""How fast training and coding are, beside other packages and beside the floor.

``python -m benchmarks.speed compare`` takes training steps of ours, of the paper's loop
and, where they are installed, of other packages, on the same random data, in turns,
several times over.  After each step it times the bare product of the samples and one
encoder, so that both are measured under the same load.  The *ratio*, of a step to these
products for all SAEs that it trains, is what counts; seconds are of this machine, now.
Where a package trains one SAE, several take as many steps.  Memory is the peak of a
process of its own less what it held before (RssAnon, Linux).

``growth`` shows how a step of ours grows with each size.  ``transform`` times coding.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from time import perf_counter
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.linear_model import orthogonal_mp_gram

from benchmarks import _paper, _peers
from benchmarks._results import Command, Row
from benchmarks.memory import PeakMemory, in_own_process
from skmfr import MFRSparseAutoencoder
from skmfr._data.batches import Batches
from skmfr._data.standardiser import Standardiser as OurStandardiser
from skmfr._kernels import LIBRARIES, backend
from skmfr._training.activity import Activity
from skmfr._training.initial import untrained
from skmfr._training.loop import renew_matches, train
from skmfr._training.schedule import Plateau, Schedule
from skmfr._training.settings import Settings
from skmfr._training.state import new_state

# Number of turns of each method; steps of a turn; those at its beginning that do not
# count, because they fill caches and allocate; seconds after which a turn ends early.
N_TURNS = 3
N_STEPS = 15
N_WARM = 4
SECONDS = 10.0
# Calls with a single sample.
N_CALLS = 50
# Planned steps, as in a long run: warm-up and dead atoms depend on them.
PLANNED = 10**6


class Size(NamedTuple):
    batch_size: int
    n_features: int
    n_components: int
    k: int

    def data(self, n_batches: int = 8) -> np.ndarray:
        shape = n_batches * self.batch_size, self.n_features
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


SIZES = (
    Size(1024, 256, 1024, 16),
    Size(2048, 768, 3072, 32),
    Size(4096, 768, 12288, 32),
)
SIZES_TO_CODE = (
    Size(2048, 768, 3072, 32),
    Size(2048, 64, 512, 8),
    Size(2048, 2304, 9216, 64),
)


DIGITS = {
    "value": None,
    "step, ms": 1,
    "call, ms": 2,
    "ratio": 2,
    "rows/s": 0,
    "rows/s x SAEs": 0,
    "memory, MB": 0,
    "share": 2,
}


class TurnIsOver(Exception):
    pass


class Clock:
    """Seconds of the steps, and of a product with one encoder after each."""

    n_steps = N_STEPS
    """of a turn"""

    def __init__(self, size: Size):
        self.steps: list[float] = []
        self.products: list[float] = []
        self.samples = torch.from_numpy(size.data(n_batches=1))
        self.encoder = torch.randn(size.n_components, size.n_features)
        self.scores = torch.empty(size.batch_size, size.n_components)

    def start(self) -> None:
        """The first step of a turn begins."""
        self.n_taken = 0
        self.turn_began = self.began = perf_counter()

    def tick(self) -> None:
        """A step ends, and the next begins.

        Raises
        ------
        TurnIsOver
            If it does not.
        """
        now = perf_counter()
        self.n_taken += 1
        late = now - self.turn_began > SECONDS
        if self.n_taken > N_WARM or late:
            self.steps.append(now - self.began)
            torch.mm(self.samples, self.encoder.T, out=self.scores)
            self.products.append(perf_counter() - now)
        if late or self.n_taken == self.n_steps:
            raise TurnIsOver
        self.began = perf_counter()

    def batches(self, batches: Iterator, n_before: int = 0) -> Iterator:
        """The same; a step is from when a batch is wanted to when the next one is.

        The first n_before batches are taken before training.
        """
        yield from islice(batches, n_before)
        self.start()
        while True:
            yield next(batches)
            self.tick()


class Contender(NamedTuple):
    take_a_turn: Callable[[Size, Clock], None]
    n_saes: int
    """that a step trains, without witnesses"""
    n_products: int
    """encoders that it multiplies by, with witnesses"""


def ours(
    size: Size,
    clock: Clock,
    n_saes: int,
    alpha: float,
    n_witnesses: int,
    precision: str = "float32",
    device: str = "cpu",
) -> None:
    """The loop of `fit` where it is dearest: the penalty on, every atom pulled."""
    batch_size, _, n_components, k = size
    X = size.data()
    settings = Settings(
        n_components=n_components,
        n_saes=n_saes,
        n_witnesses=n_witnesses,
        witness_rows="same",
        k=k,
        activation="topk",
        alpha=alpha,
        matching="hungarian",
        tied=False,
        learning_rate=1e-3,
        reinit_threshold=None,
        reinit_every=None,
        share_atoms=True,
        seed=0,
        device=device,
        dtype=torch.float32,
        low_precision=precision == "bfloat16",
        for_pursuit=False,
        positive_code=False,
    )
    standardiser = OurStandardiser.of(X)
    batches = Batches(X, None, batch_size, shuffle=True, seed=0)
    state = new_state(untrained(standardiser, settings), settings)
    state.begin(Schedule.constant(clock.n_steps), Plateau())
    state.matches.least_cosine = -2.0
    if alpha > 0:
        # All pairs, once in a fit; after that they take turns.
        renew_matches(state, settings)
    clock.start()
    train(state, batches, standardiser, settings, after_step=lambda _: clock.tick())


def paper(size: Size, clock: Clock, n_saes: int, alpha: float) -> None:
    random_batches = _paper.random_batches

    def timed(*arguments) -> Iterator:
        return clock.batches(random_batches(*arguments))

    with patch.object(_paper, "random_batches", timed):
        _paper.train_paper(
            size.data(),
            size.n_components,
            size.k,
            n_saes=n_saes,
            alpha=alpha,
            n_steps=PLANNED,
            batch_size=size.batch_size,
            seed=0,
        )


def peer(size: Size, clock: Clock, name: str, **options) -> None:
    shuffled_batches = _peers.shuffled_batches
    n_before = _peers.N_NORM_BATCHES if name in _peers.SCALED else 0

    def timed(*arguments) -> Iterator:
        return clock.batches(shuffled_batches(*arguments), n_before)

    with patch.object(_peers, "shuffled_batches", timed):
        _peers.PEERS[name](
            size.data(),
            size.n_components,
            size.k,
            n_steps=PLANNED,
            batch_size=size.batch_size,
            learning_rate=1e-3,
            seed=0,
            **options,
        )


def sae_lens_together(size: Size, clock: Clock, n_saes: int) -> None:
    """Its ``MultiSAETrainer``, all SAEs on one place in a model."""
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    saes = {
        f"sae {i}": _peers.sae_lens_sae(size.n_features, size.n_components, size.k)
        for i in range(n_saes)
    }

    X = torch.from_numpy(size.data())
    shuffled = _peers.shuffled_batches(X, size.batch_size, seed=0)
    batches = clock.batches(
        ({"site": batch} for batch in shuffled), _peers.N_NORM_BATCHES
    )
    config = _peers.sae_lens_config(PLANNED, size.batch_size, 1e-3)
    with _peers.quiet():
        MultiSAETrainer(config, saes, dict.fromkeys(saes, "site"), batches).fit()


def dictionary_learning(size: Size, clock: Clock) -> None:
    """scikit-learn's, an update of its dictionary for each batch."""
    model = MiniBatchDictionaryLearning(
        size.n_components, batch_size=size.batch_size, random_state=0
    )
    clock.start()
    while True:
        for batch in np.split(size.data(), 8):
            model.partial_fit(batch)
            clock.tick()


@contextmanager
def without_numba() -> Iterator[None]:
    """PyTorch serves on the CPU."""
    with patch.dict(LIBRARIES, clear=True):
        backend.cache_clear()
        try:
            yield
        finally:
            backend.cache_clear()


WITHOUT = {
    "oneDNN": partial(patch, "skmfr._kernels.dense._dtypes_of_onednn", frozenset),
    "Numba": without_numba,
}


def ours_without(library: str, size: Size, clock: Clock, **options) -> None:
    with WITHOUT[library]():
        ours(size, clock, **options)


def contenders() -> dict[str, Contender]:
    """All that can be compared here, by name."""
    found = {}
    for n_saes, n_witnesses, alpha, precision, missing in (
        (1, 0, 0.0, "float32", None),
        (3, 0, 0.0, "float32", None),
        (3, 0, 1.0, "float32", None),
        (10, 0, 0.0, "float32", None),
        (10, 0, 1.0, "float32", None),
        (3, 1, 1.0, "float32", None),
        (3, 1, 1.0, "float32", "oneDNN"),
        (3, 1, 1.0, "float32", "Numba"),
        (3, 0, 1.0, "bfloat16", None),
        (3, 1, 1.0, "bfloat16", None),
        (3, 1, 1.0, "bfloat16", "Numba"),
    ):
        name = f"ours, {n_saes} SAE"
        name += " and a witness" if n_witnesses else ""
        name += f", alpha={alpha:g}"
        name += f", {precision}" if precision != "float32" else ""
        name += f", without {missing}" if missing else ""
        step = partial(
            partial(ours_without, missing) if missing else ours,
            n_saes=n_saes,
            alpha=alpha,
            n_witnesses=n_witnesses,
            precision=precision,
        )
        found[name] = Contender(step, n_saes, n_saes + n_witnesses)
    for name in _peers.installed():
        found[name] = Contender(partial(peer, name=name), 1, 1)
    if "sae-lens" in found:
        for n_saes in (3, 10):
            found[f"sae-lens, MultiSAETrainer, {n_saes} SAE"] = Contender(
                partial(sae_lens_together, n_saes=n_saes), n_saes, n_saes
            )
    for n_saes in (3, 10):
        found[f"paper, {n_saes} SAE"] = Contender(
            partial(paper, n_saes=n_saes, alpha=0.1), n_saes, n_saes
        )
    found["MiniBatchDictionaryLearning"] = Contender(dictionary_learning, 1, 1)
    return found


def take_a_turn(contender: Contender, size: Size, clock: Clock) -> None:
    try:
        contender.take_a_turn(size, clock)
    except TurnIsOver:
        return
    raise AssertionError("training ended before the turn did")


def added_memory(name: str, size: Size) -> int:
    """Peak of what this process holds in a turn, less what it held before, in bytes."""
    clock = Clock(size)
    with PeakMemory() as memory:
        take_a_turn(contenders()[name], size, clock)
    return memory.peak - memory.before


def compare(size: Size, only: str) -> Iterator[Row]:
    chosen = {
        name: contender
        for name, contender in contenders().items()
        if re.search(only, name)
    }
    clocks = {name: Clock(size) for name in chosen}
    for _ in range(N_TURNS):
        for name, contender in chosen.items():
            take_a_turn(contender, size, clocks[name])
    for name, contender in chosen.items():
        steps, products = map(np.array, (clocks[name].steps, clocks[name].products))
        rate = size.batch_size / np.median(steps)
        low, middle, high = np.quantile(
            steps / (contender.n_products * np.median(products)), [0.25, 0.5, 0.75]
        )
        yield {
            "trains": name,
            "step, ms": 1e3 * np.median(steps),
            "ratio": {"value": middle, "low": low, "high": high},
            "rows/s": rate,
            "rows/s x SAEs": contender.n_saes * rate,
            "memory, MB": in_own_process(added_memory, name, size) / 1e6,
        }


# Values of each parameter; the others have the middle size, two SAEs and a witness.
GROWTH = {
    "n_saes": (2, 4, 8),
    "n_components": (768, 3072, 12288),
    "k": (8, 32, 128),
    "n_features": (192, 768, 3072),
    "batch_size": (512, 2048, 8192),
    "dead": (0.0, 0.1, 0.3),
}


def in_auxiliary_loss(share: float):
    """Context in which this share of the atoms of each SAE counts as dead."""

    def first_atoms(activity: Activity, _: float) -> None:
        n_dead = round(share * activity.idle.shape[1])
        activity.dead = [torch.arange(n_dead)] * len(activity.idle)

    return patch.object(Activity, "look_for_dead", first_atoms)


def growth() -> Iterator[Row]:
    """A step of ours, each size changed alone."""
    for parameter, values in GROWTH.items():
        for value in values:
            size, n_saes, dead = SIZES[1], 2, nullcontext()
            if parameter == "n_saes":
                n_saes = value
            elif parameter == "dead":
                dead = in_auxiliary_loss(value)
            else:
                size = size._replace(**{parameter: value})
            clock = Clock(size)
            step = partial(ours, n_saes=n_saes, alpha=1.0, n_witnesses=1)
            with dead:
                for _ in range(N_TURNS):
                    take_a_turn(Contender(step, n_saes, n_saes + 1), size, clock)
            products = (n_saes + 1) * np.median(clock.products)
            yield {
                "size": parameter,
                "value": value,
                "step, ms": 1e3 * np.median(clock.steps),
                "ratio": np.median(clock.steps) / products,
            }


# How samples are coded: the algorithm, and whether codes are not negative.
CODINGS = [
    ("encoder", False),
    ("lstsq", False),
    ("lstsq", True),
    ("omp", False),
    ("omp", True),
]
# Rows that are coded at once; of scikit-learn's pursuit, which takes them one by one.
N_ROWS, N_ROWS_OF_SCIKIT_LEARN = 16_384, 256


def transform(sizes: list[Size]) -> Iterator[Row]:
    """How fast `transform` is, as a share of the rate of bare products.

    Of many rows, with sparse output, and of a single one, as an estimator is by
    default; beside it matching pursuit by scikit-learn, of products that are given.
    """
    for size in sizes:
        _, n_features, n_components, k = size
        X = size.data()[:N_ROWS]
        sae = MFRSparseAutoencoder(
            n_components, n_saes=1, n_witnesses=0, k=k, max_steps=5, random_state=0
        ).fit(X)
        what = {"features": n_features, "atoms": n_components, "k": k}
        for algorithm, positive in CODINGS:
            sae.set_params(transform_algorithm=algorithm, positive_code=positive)
            name = algorithm + (", not negative" if positive else "")
            for rows, n_calls in ((X, N_TURNS), (X[:1], N_CALLS)):
                sae.set_params(sparse_output=len(rows) > 1)
                times = seconds_to_code(sae, sae.transform, rows, n_calls)
                yield {"rows": len(rows)} | what | coded(name, len(rows), *times)
        atoms = sae.components_.astype(np.float64)
        gram = atoms @ atoms.T
        rows = X[:N_ROWS_OF_SCIKIT_LEARN]

        def by_scikit_learn(rows, atoms=atoms, gram=gram, k=k):
            products = atoms @ rows.T.astype(np.float64)
            return orthogonal_mp_gram(gram, products, n_nonzero_coefs=k)

        times = seconds_to_code(sae, by_scikit_learn, rows, N_TURNS)
        name = "omp, scikit-learn"
        yield {"rows": len(rows)} | what | coded(name, len(rows), *times)


def coded(name: str, n_rows: int, seconds: float, product: float) -> Row:
    return {
        "algorithm": name,
        "call, ms": 1e3 * seconds,
        "rows/s": n_rows / seconds,
        "share": product / seconds,
    }


def seconds_to_code(
    sae: MFRSparseAutoencoder, code: Callable, X: np.ndarray, n_calls: int
) -> tuple[float, float]:
    """Median time of ``code(X)``, and of the bare product with the encoder."""
    samples, encoder = torch.from_numpy(X), torch.tensor(sae.encoder_weights_)
    scores = torch.empty(len(X), len(encoder))
    coding, products = [], []
    for _ in range(n_calls + 1):
        began = perf_counter()
        code(X)
        middle = perf_counter()
        torch.mm(samples, encoder.T, out=scores)
        coding.append(middle - began)
        products.append(perf_counter() - middle)
    # The first time fills caches and allocates.
    return np.median(coding[1:]), np.median(products[1:])


def add_choices(parser: Command) -> None:
    """Options that say what is compared."""
    parser.add_argument(
        "--size",
        type=int,
        nargs=4,
        metavar=("BATCH", "FEATURES", "ATOMS", "K"),
        help="instead of the usual three",
    )
    parser.add_argument("--only", default="", help="regex of names to compare")


def main() -> None:
    parser = Command("speed", __doc__)
    parser.add_argument("what", choices=["compare", "growth", "transform"])
    add_choices(parser)
    arguments, report = parser.parse()
    sizes = [Size(*arguments.size)] if arguments.size else list(SIZES)
    if arguments.what == "compare":
        for size in sizes:
            table = {"what": "compare", "size": "-".join(map(str, size))}
            report(compare(size, arguments.only), table, DIGITS)
    elif arguments.what == "growth":
        report(growth(), {"what": "growth"}, DIGITS)
    else:
        if not arguments.size:
            sizes = list(SIZES_TO_CODE)
        report(transform(sizes), {"what": "transform"}, DIGITS)


if __name__ == "__main__":
    main()
