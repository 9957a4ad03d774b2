"""Fetchers against a server of our own, and mixing against its formula."""

import hashlib
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils import Bunch

from skmfr.datasets import (
    _eeg,
    fetch_eegbci,
    fetch_eegdenoisenet,
    fetch_eegmat,
    make_noisy_eeg,
)

NOWHERE = "http://127.0.0.1:9/files/eegmmidb/1.0.0/"  # nobody listens there
SHAPES = {
    "EEG_all_epochs.npy": (5, 8),
    "EOG_all_epochs.npy": (3, 8),
    "EMG_all_epochs.npy": (4, 8),
}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def needs_pooch():
    return pytest.importorskip("pooch")


@pytest.fixture
def server(tmp_path, monkeypatch, needs_pooch):
    """Serves what is in its folder; writes down what it is asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked = []
    broken = set()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            name = self.path.split("/")[-1]
            asked.append(name)
            if name not in broken:
                return super().do_GET()
            content = (folder / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_port}/"
    yield SimpleNamespace(folder=folder, url=url, asked=asked, broken=broken)
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def eegmat(server, tmp_path, monkeypatch):
    """Subjects 0 and 1 on a server; the checksums of subject 0 are known."""
    lines = []
    known = {}
    for name in [f"Subject0{s}_{c}.edf" for s in (0, 1) for c in (1, 2)]:
        content = name.encode() * 100
        (server.folder / name).write_bytes(content)
        if name.startswith("Subject00"):
            known[name] = sha256(content)
        else:
            lines.append(f"{sha256(content)} {name}\n")  # as PhysioNet writes them
    (server.folder / "SHA256SUMS.txt").write_text("".join(lines))
    monkeypatch.setattr(_eeg, "_EEGMAT_SHA256", known)
    server.home = tmp_path / "home"
    server.fetch = partial(fetch_eegmat, data_home=server.home, base_url=server.url)
    return server


@pytest.fixture
def denoisenet(server, tmp_path, monkeypatch):
    """Small arrays on a server."""
    rng = np.random.default_rng(0)
    server.arrays = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    for name, array in server.arrays.items():
        np.save(server.folder / name, array)
    monkeypatch.setattr(_eeg, "_EEGDENOISENET_SHAPES", SHAPES)
    server.home = tmp_path / "home"
    server.fetch = partial(
        fetch_eegdenoisenet, data_home=server.home, base_url=server.url
    )
    return server


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_eegmat_is_what_is_served_one_subject_after_the_other(eegmat):
    bunch = eegmat.fetch([1, 0])
    assert isinstance(bunch, Bunch)
    np.testing.assert_array_equal(bunch.subjects, [1, 1, 0, 0])
    np.testing.assert_array_equal(bunch.conditions, [1, 2, 1, 2])
    for path, subject, condition in zip(
        bunch.paths, bunch.subjects, bunch.conditions, strict=True
    ):
        assert path == eegmat.home / f"Subject0{subject}_{condition}.edf"
        assert path.read_bytes() == (eegmat.folder / path.name).read_bytes()


def test_eegmat_downloads_once_and_only_what_is_asked_for(eegmat):
    eegmat.fetch([0], conditions=[2])
    assert eegmat.asked == ["Subject00_2.edf"]
    eegmat.fetch([0, 1], conditions=[2])
    assert eegmat.asked[1:] == ["SHA256SUMS.txt", "Subject01_2.edf"]
    eegmat.fetch([0, 1], conditions=[2], download_if_missing=False)
    assert len(eegmat.asked) == 3


@pytest.mark.parametrize("subject", [0, 1])
def test_eegmat_with_another_checksum_is_refused(eegmat, subject):
    name = f"Subject0{subject}_1.edf"
    (eegmat.folder / name).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"hash of downloaded file \\({name}\\)"):
        eegmat.fetch([subject])
    assert set(files(eegmat.home)) <= {"SHA256SUMS.txt"}


def test_known_checksums_of_eegmat_come_before_listed_ones(eegmat):
    checksums = eegmat.folder / "SHA256SUMS.txt"
    checksums.write_text(
        checksums.read_text() + f"{sha256(b'something else')} Subject00_1.edf\n"
    )
    eegmat.fetch([0, 1])


def test_damaged_eegmat_is_fetched_again_or_an_error(eegmat):
    (path,) = eegmat.fetch([0], conditions=[1]).paths
    intact = path.read_bytes()
    path.write_bytes(intact[:-1])
    with pytest.raises(OSError, match=r"Subject00_1\.edf .* is damaged"):
        eegmat.fetch([0], [1], download_if_missing=False)
    eegmat.fetch([0], conditions=[1])
    assert path.read_bytes() == intact


@pytest.mark.parametrize("name", ["SHA256SUMS.txt", "Subject01_1.edf"])
def test_download_of_eegmat_cut_short_leaves_nothing(eegmat, name):
    eegmat.broken.add(name)
    with pytest.raises(OSError, match="IncompleteRead"):
        eegmat.fetch([1])
    assert name not in files(eegmat.home)
    assert set(files(eegmat.home)) <= {"SHA256SUMS.txt"}
    eegmat.broken.clear()
    eegmat.fetch([1])


def test_list_without_the_file_is_refused(eegmat):
    (eegmat.folder / "SHA256SUMS.txt").write_text("<html>Try again later</html>\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS\.txt .*list Subject01_1\.edf"):
        eegmat.fetch([1])
    assert files(eegmat.home) == []


def test_folder_filled_by_hand_needs_no_server(eegmat):
    bunch = fetch_eegmat([0, 1], data_home=str(eegmat.folder), base_url=NOWHERE)
    assert [path.parent for path in bunch.paths] == [eegmat.folder] * 4
    assert eegmat.asked == []


def test_default_folder_is_in_that_of_scikit_learn(eegmat, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(eegmat.home))
    (path,) = fetch_eegmat([0], [1], base_url=eegmat.url).paths
    assert path == eegmat.home / "skmfr" / "eegmat" / "Subject00_1.edf"


@pytest.mark.parametrize(
    ("subject", "missing"),
    [
        (0, r"^Subject00_1\.edf, Subject00_2\.edf not found"),
        (1, r"^Subject01_1\.edf, Subject01_2\.edf, SHA256SUMS\.txt not found"),
    ],
)
def test_missing_eegmat_is_an_error_where_downloads_are_off(eegmat, subject, missing):
    with pytest.raises(OSError, match=missing) as error:
        eegmat.fetch([subject], download_if_missing=False)
    assert str(eegmat.home) in str(error.value)
    assert eegmat.asked == []
    assert not eegmat.home.exists()


def test_file_that_the_server_lacks_is_an_error(eegmat):
    (eegmat.folder / "Subject00_1.edf").unlink()
    with pytest.raises(OSError, match="404"):
        eegmat.fetch([0])


def test_unreachable_server_is_an_error(tmp_path, needs_pooch, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(OSError, match="127.0.0.1"):
        fetch_eegmat([0], data_home=tmp_path, base_url=NOWHERE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"subjects": [0, 36]}, r"subjects must be from 0 to 35, got \[36\]"),
        ({"subjects": [-1]}, r"subjects must be from 0 to 35, got \[-1\]"),
        ({"subjects": 3}, "The 'subjects' parameter"),
        ({"conditions": [0]}, r"conditions must be from 1 to 2, got \[0\]"),
        ({"data_home": 3}, "The 'data_home' parameter"),
        ({"download_if_missing": "no"}, "The 'download_if_missing' parameter"),
        ({"base_url": None}, "The 'base_url' parameter"),
    ],
)
def test_parameters_of_eegmat_out_of_range_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        fetch_eegmat(**parameters)


def test_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    for fetch in (
        fetch_eegmat,
        fetch_eegdenoisenet,
        partial(fetch_eegbci, subject=1, runs=[1]),
    ):
        with pytest.raises(ImportError, match=r'pip install "skmfr\[eeg\]"'):
            fetch(data_home=tmp_path)


@pytest.fixture
def eegbci(server, tmp_path, monkeypatch, needs_pooch):
    """Runs 1 and 2 of subject 3 on a server, with the checksums that MNE has."""
    pytest.importorskip("mne")
    served = server.folder / "files" / "eegmmidb" / "1.0.0" / "S003"
    served.mkdir(parents=True)
    checksums = {}
    for name in ("S003R01.edf", "S003R02.edf"):
        (served / name).write_bytes(name.encode() * 100)
        checksums[f"S003/{name}"] = sha256((served / name).read_bytes())
    monkeypatch.setattr(
        needs_pooch.Pooch,
        "load_registry",
        lambda self, file: self.registry.update(checksums),
    )
    # Between the attempts of MNE.
    monkeypatch.setattr(
        needs_pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None)
    )
    server.served = served
    server.home = tmp_path / "home"
    server.fetch = partial(
        fetch_eegbci,
        3,
        data_home=server.home,
        base_url=f"{server.url}files/eegmmidb/1.0.0/",
    )
    return server


def test_eegbci_is_what_is_served(eegbci):
    bunch = eegbci.fetch([2, 1])
    assert bunch.subject == 3
    np.testing.assert_array_equal(bunch.runs, [2, 1])
    assert [path.name for path in bunch.paths] == ["S003R02.edf", "S003R01.edf"]
    for path in bunch.paths:
        assert path.read_bytes() == (eegbci.served / path.name).read_bytes()
    eegbci.fetch([1, 2])
    assert eegbci.asked == ["S003R02.edf", "S003R01.edf"]


def test_eegbci_with_another_checksum_is_refused(eegbci):
    (eegbci.served / "S003R01.edf").write_bytes(b"something else")
    with pytest.raises(ValueError, match="hash of downloaded file"):
        eegbci.fetch([1])
    assert files(eegbci.home) == []


def test_folder_of_mne_needs_neither_server_nor_mne(tmp_path, monkeypatch):
    folder = tmp_path / "MNE-eegbci-data" / "files" / "eegmmidb" / "1.0.0" / "S003"
    folder.mkdir(parents=True)
    (folder / "S003R01.edf").touch()
    monkeypatch.setitem(sys.modules, "mne", None)
    bunch = fetch_eegbci(3, [1], data_home=tmp_path, base_url=NOWHERE)
    assert bunch.paths == [folder / "S003R01.edf"]


def test_missing_eegbci_is_an_error_where_downloads_are_off(eegbci):
    eegbci.fetch([1])
    with pytest.raises(OSError, match=r"S003R02\.edf, S003R04\.edf not") as error:
        eegbci.fetch([1, 2, 4], download_if_missing=False)
    assert str(eegbci.home) in str(error.value)
    assert "R01" not in str(error.value)


@pytest.mark.parametrize(
    ("subject", "runs", "message"),
    [
        (0, [1], "The 'subject' parameter"),
        (110, [1], "The 'subject' parameter"),
        (1, 1, "The 'runs' parameter"),
        (1, [1, 15], r"runs must be from 1 to 14, got \[15\]"),
    ],
)
def test_parameters_of_eegbci_out_of_range_are_named(subject, runs, message):
    with pytest.raises(ValueError, match=message):
        fetch_eegbci(subject, runs)


def test_eegdenoisenet_is_what_is_served(denoisenet):
    for _ in range(2):
        bunch = denoisenet.fetch()
        for name, array in denoisenet.arrays.items():
            np.testing.assert_array_equal(bunch[name[:3].lower()], array)
        assert bunch.sfreq == 256.0
        assert bunch.unit == "uV"
    assert denoisenet.asked == list(SHAPES)


def test_eegdenoisenet_writes_down_its_checksums(denoisenet):
    denoisenet.fetch()
    assert (denoisenet.home / "SHA256SUMS").read_text() == "".join(
        f"{sha256((denoisenet.folder / name).read_bytes())}  {name}\n"
        for name in SHAPES
    )


def test_damaged_eegdenoisenet_is_fetched_again_or_an_error(denoisenet):
    denoisenet.fetch()
    path = denoisenet.home / "EOG_all_epochs.npy"
    np.save(path, 2 * denoisenet.arrays[path.name])
    with pytest.raises(OSError, match=r"EOG_all_epochs\.npy in .* is damaged"):
        denoisenet.fetch(download_if_missing=False)
    np.testing.assert_array_equal(denoisenet.fetch().eog, denoisenet.arrays[path.name])


def test_other_epochs_than_at_the_first_download_are_refused(denoisenet):
    denoisenet.fetch()
    name = "EMG_all_epochs.npy"
    (denoisenet.home / name).unlink()
    np.save(denoisenet.folder / name, 2 * denoisenet.arrays[name])
    with pytest.raises(ValueError, match="does not match the known hash"):
        denoisenet.fetch()
    (denoisenet.home / "SHA256SUMS").unlink()
    np.testing.assert_array_equal(denoisenet.fetch().emg, 2 * denoisenet.arrays[name])


@pytest.mark.parametrize(
    "content",
    [
        lambda intact: b"",
        lambda intact: b"<html>Try again later</html>",
        lambda intact: intact[:40],
        lambda intact: intact[:-8],
    ],
    ids=["empty", "html", "header", "data"],
)
def test_incomplete_epochs_are_refused_and_leave_nothing(denoisenet, content):
    path = denoisenet.folder / "EEG_all_epochs.npy"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ValueError, match=r"EEG_all_epochs\.npy in .* is refused"):
        denoisenet.fetch()
    assert files(denoisenet.home) == []


def test_epochs_of_another_shape_are_refused(denoisenet):
    np.save(denoisenet.folder / "EEG_all_epochs.npy", np.zeros((5, 9)))
    with pytest.raises(ValueError, match=r"shape must be \(5, 8\), not \(5, 9\)"):
        denoisenet.fetch()
    assert files(denoisenet.home) == []


def test_download_of_epochs_cut_short_leaves_nothing(denoisenet):
    denoisenet.broken.add("EEG_all_epochs.npy")
    with pytest.raises(OSError, match="IncompleteRead"):
        denoisenet.fetch()
    assert files(denoisenet.home) == []


def test_epochs_put_there_by_hand_need_no_server_and_no_record(denoisenet):
    before = files(denoisenet.folder)
    bunch = fetch_eegdenoisenet(data_home=denoisenet.folder, base_url=NOWHERE)
    np.testing.assert_array_equal(bunch.eeg, denoisenet.arrays["EEG_all_epochs.npy"])
    assert files(denoisenet.folder) == before
    (denoisenet.folder / "EEG_all_epochs.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"EEG_all_epochs\.npy .* is refused"):
        fetch_eegdenoisenet(data_home=denoisenet.folder, base_url=NOWHERE)


def test_missing_eegdenoisenet_is_an_error_where_downloads_are_off(denoisenet):
    with pytest.raises(OSError, match=r"EEG_all_epochs\.npy") as error:
        denoisenet.fetch(download_if_missing=False)
    assert str(denoisenet.home) in str(error.value)
    assert denoisenet.asked == []


def test_checksums_of_the_user_hold(denoisenet):
    checksums = {
        name: sha256((denoisenet.folder / name).read_bytes()).upper() for name in SHAPES
    }
    for _ in range(2):
        denoisenet.fetch(checksums=checksums)
    assert denoisenet.asked == list(SHAPES)
    wrong = {"EOG_all_epochs.npy": sha256(b"something else")}
    with pytest.raises(ValueError, match="does not match the known hash"):
        denoisenet.fetch(checksums=wrong)


def test_checksums_of_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"checksums may name .* got EEG\.npy"):
        fetch_eegdenoisenet(data_home=tmp_path, checksums={"EEG.npy": "0" * 64})


def epochs(n_epochs, *shape, seed):
    """Epochs that are neither centred nor of one strength."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(1, 50, size=(n_epochs, *[1] * len(shape)))
    return strength * (rng.normal(size=(n_epochs, *shape)) + 0.3)


def rms(array):
    return np.sqrt(np.mean(array**2))


SHAPE = pytest.mark.parametrize("shape", [(64,), (3, 64)], ids=["times", "channels"])


@SHAPE
@pytest.mark.parametrize("normalise", [True, False])
def test_mixture_is_that_of_the_formula(shape, normalise):
    clean, noise = epochs(20, *shape, seed=0), epochs(7, *shape, seed=1)
    noisy, truth, snr_db, clean_index, noise_index = make_noisy_eeg(
        clean, noise, n_repeats=4, normalise=normalise, random_state=0
    )
    assert len(noisy) == len(truth) == 80
    for y, x, snr, i, j in zip(
        noisy, truth, snr_db, clean_index, noise_index, strict=True
    ):
        factor = rms(clean[i]) / (rms(noise[j]) * 10 ** (snr / 10))
        mixture = clean[i] + factor * noise[j]
        scale = mixture.std() if normalise else 1
        np.testing.assert_allclose(x, clean[i] / scale, rtol=1e-12)
        np.testing.assert_allclose(y, mixture / scale, rtol=1e-9)


@SHAPE
def test_amplitudes_have_the_ratio_of_the_snr_with_ten_in_the_exponent(shape):
    noisy, clean, snr_db, _, _ = make_noisy_eeg(
        epochs(20, *shape, seed=0), epochs(7, *shape, seed=1), random_state=0
    )
    ratios = [rms(x) / rms(y - x) for x, y in zip(clean, noisy, strict=True)]
    np.testing.assert_allclose(ratios, 10 ** (snr_db / 10), rtol=1e-9)


def test_each_epoch_is_mixed_n_repeats_times():
    *_, clean_index, _ = make_noisy_eeg(
        epochs(5, 8, seed=0), epochs(3, 8, seed=1), n_repeats=3
    )
    np.testing.assert_array_equal(np.bincount(clean_index), [3] * 5)


def test_noise_and_ratios_are_drawn_all_alike_and_independently():
    _, _, snr_db, _, noise_index = make_noisy_eeg(
        epochs(100, 8, seed=0), epochs(5, 8, seed=1), n_repeats=100, random_state=0
    )
    levels = np.arange(-7, 3)
    assert set(snr_db) == set(levels)
    counts = np.zeros((5, 10))
    np.add.at(counts, (noise_index, np.searchsorted(levels, snr_db)), 1)
    assert (abs(counts - 200) < 6 * 200**0.5).all()


def test_pairs_do_not_depend_on_the_ratios():
    clean, noise = epochs(30, 8, seed=0), epochs(9, 8, seed=1)
    low, high = (
        make_noisy_eeg(clean, noise, snr_db=[snr], as_bunch=True, random_state=0)
        for snr in (-7, 2)
    )
    np.testing.assert_array_equal(low.noise_index, high.noise_index)
    assert set(low.snr_db) == {-7}
    assert set(high.snr_db) == {2}


def test_same_seed_same_mixtures():
    clean, noise = epochs(30, 8, seed=0), epochs(9, 8, seed=1)
    first, again, other = (
        make_noisy_eeg(clean, noise, random_state=seed) for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize("normalise", [True, False])
def test_inputs_are_left_as_they_are(normalise):
    clean, noise = epochs(5, 8, seed=0), epochs(5, 8, seed=1)
    snr_db = np.array([0.0, 1.0])
    copies = [array.copy() for array in (clean, noise, snr_db)]
    results = make_noisy_eeg(clean, noise, snr_db=snr_db, normalise=normalise)
    for array, copy in zip((clean, noise, snr_db), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not any(np.shares_memory(array, result) for result in results)


def test_float32_stays_and_is_the_same_up_to_rounding():
    # In volts: squares of 1e-6 and less.
    clean, noise = 1e-6 * epochs(5, 8, seed=0), 1e-4 * epochs(4, 8, seed=1)
    single = make_noisy_eeg(clean.astype(np.float32), noise, random_state=0)
    double = make_noisy_eeg(clean, noise, random_state=0)
    assert single[0].dtype == single[1].dtype == np.float32
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_bunch_has_the_same():
    clean, noise = epochs(5, 8, seed=0), epochs(4, 8, seed=1)
    bunch = make_noisy_eeg(clean, noise, as_bunch=True, random_state=0)
    names = ["noisy", "clean", "snr_db", "clean_index", "noise_index"]
    assert isinstance(bunch, Bunch)
    assert list(bunch) == names
    results = make_noisy_eeg(clean, noise, random_state=0)
    for name, result in zip(names, results, strict=True):
        np.testing.assert_array_equal(bunch[name], result)


def with_value(value, *, where):
    array = epochs(4, 8, seed=0)
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clean", with_value(np.nan, where=(1, 2)), "clean contains NaN"),
        ("noise", with_value(np.inf, where=(1, 2)), "noise contains infinity"),
        ("clean", with_value(0, where=2), "clean must not have an epoch .* epoch 2 is"),
        ("noise", with_value(0, where=3), "noise must not have an epoch .* epoch 3 is"),
        ("clean", np.ones(8), r"clean must be 2-D or 3-D .* got shape \(8,\)"),
        ("noise", np.ones((2, 2, 2, 8)), "noise must be 2-D or 3-D"),
        ("clean", np.ones((0, 8)), r"clean must be .* not empty, got shape \(0, 8\)"),
        ("noise", np.ones((4, 9)), r"noise must have epochs of shape \(8,\).*\(9,\)"),
        ("noise", np.ones((4, 2, 8)), r"noise must have epochs of shape \(8,\)"),
        ("snr_db", [0, np.inf], "snr_db contains infinity"),
        ("snr_db", [np.nan], "snr_db contains NaN"),
        ("snr_db", [], "snr_db must be 1-D and not empty"),
        ("snr_db", 0.0, "The 'snr_db' parameter"),
        ("n_repeats", 0, "The 'n_repeats' parameter"),
        ("normalise", "yes", "The 'normalise' parameter"),
        ("random_state", "seed", "The 'random_state' parameter"),
    ],
)
def test_what_cannot_be_mixed_is_named(name, value, message):
    parameters = {"clean": epochs(4, 8, seed=0), "noise": epochs(4, 8, seed=1)}
    with pytest.raises(ValueError, match=message):
        make_noisy_eeg(**(parameters | {name: value}))


def test_constant_mixtures_cannot_be_normalised():
    clean, noise = np.full((2, 8), 2.0), np.full((2, 8), 1.0)
    with pytest.raises(ValueError, match="normalise must be False"):
        make_noisy_eeg(clean, noise)
    noisy, *_ = make_noisy_eeg(clean, noise, snr_db=[0], normalise=False)
    np.testing.assert_array_equal(noisy, np.full((2, 8), 4.0))
