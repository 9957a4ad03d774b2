"""Fetchers of public EEG data, with checksums."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from .._utils.checks import Interval
from .._utils.extras import needed_by

# The checksums of other files come from PhysioNet.
_EEGMAT_SHA256 = {
    "Subject00_1.edf": (
        "8b23c443f2f5f733f8ccc31a54377898009c28c7563d1107692a8735212d2f15"
    ),
    "Subject00_2.edf": (
        "635bbf035777008ff6c23d9c7bfc497d584fc71c56217022946d1fd056527e43"
    ),
    "Subject07_1.edf": (
        "3991d7b4667065de53f80e5b40b69cee5c819f62c7352dca3b06ca5333fd1308"
    ),
    "Subject07_2.edf": (
        "f8381e8f22a118f772e316bfb4c87f2a41581d9590a7c58f3b8c95c62a1789f1"
    ),
    "Subject16_1.edf": (
        "2e59fdf714c36f6c1520f5011aba46dca543e0561e98c3ca509dfe6112709130"
    ),
    "Subject16_2.edf": (
        "451eea5902ab279785fa98d474837c97ba2bc389b4b46f914a408555744b1774"
    ),
}
_EEGMAT_DESCR = """\
EEG During Mental Arithmetic Tasks 1.0.0

Scalp EEG of 36 students, before (condition 1) and while (condition 2) they subtract
numbers in their heads: 19 channels of the 10-20 system, A2-A1 and an ECG, at 500 Hz.
Its authors have band-passed it and removed ocular, muscular and cardiac components by
ICA, so it is a clean reference, not raw EEG.

Licence: Open Data Commons Attribution License 1.0.  To cite: I. Zyma et al.,
"Electroencephalograms during Mental Arithmetic Task Performance", Data 4(1):14, 2019,
doi:10.13026/C2JQ1P; and PhysioNet: A. L. Goldberger et al., "PhysioBank,
PhysioToolkit, and PhysioNet", Circulation 101(23):e215-e220, 2000.
"""

_EEGBCI_FOLDER = Path("MNE-eegbci-data", "files", "eegmmidb", "1.0.0")  # MNE's choice
_EEGBCI_DESCR = """\
EEG Motor Movement/Imagery Dataset 1.0.0

Scalp EEG of 109 volunteers, 64 channels of the 10-10 system at 160 Hz, in 14 runs: a
minute with open eyes (1), a minute with closed eyes (2), and 2 minutes each of moving,
or imagining to move, fists and feet (3 to 14).  It is raw: blinks, saccades, muscles
and drift are in it.

Licence: Open Data Commons Attribution License 1.0.  To cite: G. Schalk et al.,
"BCI2000: A General-Purpose Brain-Computer Interface (BCI) System", IEEE Transactions
on Biomedical Engineering 51(6):1034-1043, 2004; and PhysioNet: A. L. Goldberger et
al., "PhysioBank, PhysioToolkit, and PhysioNet", Circulation 101(23):e215-e220, 2000.
"""

_EEGDENOISENET_SHAPES = {
    "EEG_all_epochs.npy": (4514, 512),
    "EOG_all_epochs.npy": (3400, 512),
    "EMG_all_epochs.npy": (5598, 512),
}
_EEGDENOISENET_DESCR = """\
EEGdenoiseNet

Single-channel epochs of 2 s at 256 Hz: 4514 of clean EEG, 3400 of ocular and 5598 of
muscular artefacts, to be mixed at chosen strengths.  The files do not say which
subject an epoch is of.

Licence: MIT, that of the repository.  To cite: H. Zhang et al., "EEGdenoiseNet: a
benchmark dataset for deep learning solutions of EEG denoising", Journal of Neural
Engineering 18(5):056057, 2021.
"""

_COMMON_CONSTRAINTS = {
    "data_home": [str, PathLike, None],
    "download_if_missing": ["boolean"],
    "base_url": [str],
}


@validate_params(
    _COMMON_CONSTRAINTS | {"subjects": ["array-like"], "conditions": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def fetch_eegmat(
    subjects=range(36),
    conditions=(1, 2),
    *,
    data_home=None,
    download_if_missing=True,
    base_url="https://physionet.org/files/eegmat/1.0.0/",
):
    """Fetch clean EEG at rest and during mental arithmetic.

    A file counts as missing if its SHA-256 differs from the known one, or else from the
    one in PhysioNet's SHA256SUMS.txt.  The list is downloaded with the first file that
    needs it.  Published as [1]_.

    Parameters
    ----------
    subjects : array-like of int, default=range(36)
        Subjects, 0 to 35.  All of them are 190 MB.
    conditions : array-like of int, default=(1, 2)
        1 for the 3 minutes at rest, 2 for the minute of arithmetic.
    data_home : str or path-like, default=None
        Folder of the files.  None is ``skmfr/eegmat`` in the folder of
        :func:`~sklearn.datasets.get_data_home`.  Files from other sources are used if
        they are intact; SHA256SUMS.txt must be among them, except for subjects 0, 7
        and 16.
    download_if_missing : bool, default=True
        Whether to download missing files, or to raise an error.
    base_url : str, default="https://physionet.org/files/eegmat/1.0.0/"
        URL to download from, by HTTP.

    Returns
    -------
    Bunch
        With ``paths``, a list of :class:`~pathlib.Path` to EDF files, ordered by
        subject and then by condition; ``subjects`` and ``conditions``, ndarrays of
        shape (n_files,); and ``DESCR``, the description, licence and source.

    Raises
    ------
    ValueError
        If there is no such subject or condition, or the SHA-256 of a download is wrong.
    OSError
        If a file is missing and `download_if_missing` is False, or the download fails.
    ImportError
        If pooch is not installed.

    See Also
    --------
    fetch_eegbci : EEG with its artefacts.

    References
    ----------
    .. [1] I. Zyma et al., "Electroencephalograms during Mental Arithmetic Task
       Performance", Data 4(1):14, 2019, doi:10.13026/C2JQ1P.

    Examples
    --------
    >>> from skmfr.datasets import fetch_eegmat
    >>> eegmat = fetch_eegmat([0, 7], conditions=[1])  # doctest: +SKIP
    >>> [path.name for path in eegmat.paths]  # doctest: +SKIP
    ['Subject00_1.edf', 'Subject07_1.edf']
    """
    recordings = [
        (subject, condition)
        for subject in _checked_numbers("subjects", subjects, range(36))
        for condition in _checked_numbers("conditions", conditions, range(1, 3))
    ]
    names = [
        f"Subject{subject:02d}_{condition}.edf" for subject, condition in recordings
    ]
    unknown = [name for name in names if name not in _EEGMAT_SHA256]
    folder = _data_folder(data_home, "eegmat")
    if not download_if_missing:
        _check_present(names + (["SHA256SUMS.txt"] if unknown else []), folder)
    fetch = partial(
        _fetch,
        folder=folder,
        base_url=base_url,
        download_if_missing=download_if_missing,
    )
    checksums = _EEGMAT_SHA256
    if unknown:
        read = partial(_read_checksums, names=unknown)
        checksums = fetch("SHA256SUMS.txt", read=read) | checksums
    return Bunch(
        paths=[fetch(name, sha256=checksums[name]) for name in names],
        subjects=np.array([subject for subject, _ in recordings], dtype=int),
        conditions=np.array([condition for _, condition in recordings], dtype=int),
        DESCR=_EEGMAT_DESCR,
    )


@validate_params(
    _COMMON_CONSTRAINTS
    | {"subject": [Interval(Integral, 1, 109, closed="both")], "runs": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def fetch_eegbci(
    subject,
    runs,
    *,
    data_home=None,
    download_if_missing=True,
    base_url="https://physionet.org/files/eegmmidb/1.0.0/",
):
    """Fetch raw EEG of motor movement and imagery.

    Files are downloaded as by :func:`mne.datasets.eegbci.load_data`, and checked with
    the SHA-256 that MNE knows.  Existing files are not checked again.  Published as
    [1]_.

    Parameters
    ----------
    subject : int
        Subject, 1 to 109.
    runs : array-like of int
        Runs, 1 to 14: open eyes, closed eyes, then 3 times moving and imagining to
        move one fist, moving and imagining to move both fists or both feet.
    data_home : str or path-like, default=None
        Folder where MNE keeps its data, in ``MNE-eegbci-data/files/eegmmidb/1.0.0``.
        None is ``skmfr/eegbci`` in the folder of
        :func:`~sklearn.datasets.get_data_home`.  MNE's own downloads are in
        ``~/mne_data``, unless configured otherwise.
    download_if_missing : bool, default=True
        Whether to download missing files, or to raise an error.
    base_url : str, default="https://physionet.org/files/eegmmidb/1.0.0/"
        URL to download from, by HTTP.  MNE requires the same ending as the default.

    Returns
    -------
    Bunch
        With ``paths``, a list of :class:`~pathlib.Path` to EDF files, one for each
        run; ``subject``, as given; ``runs``, ndarray of shape (n_files,); and
        ``DESCR``, the description, licence and source of the data.

    Raises
    ------
    ValueError
        If there is no such subject or run, or the SHA-256 of a download is wrong.
    OSError
        If a file is missing and `download_if_missing` is False, or the download fails.
    ImportError
        If files must be downloaded, and MNE or pooch is not installed.

    See Also
    --------
    fetch_eegmat : EEG without artefacts.

    References
    ----------
    .. [1] G. Schalk et al., "BCI2000: A General-Purpose Brain-Computer Interface (BCI)
       System", IEEE Transactions on Biomedical Engineering 51(6):1034-1043, 2004,
       doi:10.13026/C28G6P.

    Examples
    --------
    >>> from skmfr.datasets import fetch_eegbci
    >>> eegbci = fetch_eegbci(1, runs=[1, 2])  # doctest: +SKIP
    >>> [path.name for path in eegbci.paths]  # doctest: +SKIP
    ['S001R01.edf', 'S001R02.edf']
    """
    runs = _checked_numbers("runs", runs, range(1, 15))
    data_home = _data_folder(data_home, "eegbci")
    folder = data_home / _EEGBCI_FOLDER / f"S{subject:03d}"
    paths = [folder / f"S{subject:03d}R{run:02d}.edf" for run in runs]
    if not download_if_missing:
        _check_present([path.name for path in paths], folder)
    if not all(path.exists() for path in paths):
        with needed_by("fetch_eegbci", "eeg"):
            import pooch  # noqa: F401 (MNE asks for it only while it downloads)
            from mne.datasets.eegbci import load_data
        load_data(subject, runs, path=data_home, update_path=False, base_url=base_url)
    return Bunch(
        paths=paths,
        subject=subject,
        runs=np.array(runs, dtype=int),
        DESCR=_EEGBCI_DESCR,
    )


@validate_params(
    _COMMON_CONSTRAINTS | {"checksums": [dict, None]},
    prefer_skip_nested_validation=True,
)
def fetch_eegdenoisenet(
    *,
    data_home=None,
    download_if_missing=True,
    base_url="https://raw.githubusercontent.com/ncclabsustech/EEGdenoiseNet/master/data/",
    checksums=None,
):
    """Fetch the clean EEG and the artefacts of EEGdenoiseNet.

    The authors publish no checksums, so the first download is checked only for the
    published array shapes.  Its SHA-256 is then stored in SHA256SUMS beside it.  From
    then on, a file with another SHA-256 counts as missing, and a download with another
    SHA-256 is refused; to accept it, delete SHA256SUMS.  Published as [1]_.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the files.  None is ``skmfr/eegdenoisenet`` in the folder of
        :func:`~sklearn.datasets.get_data_home`.  Files from other sources are used if
        they are arrays of these shapes.
    download_if_missing : bool, default=True
        Whether to download missing files (55 MB), or to raise an error.
    base_url : str, default="https://raw.githubusercontent.com/ncclabsustech/\
EEGdenoiseNet/master/data/"
        URL to download from, by HTTP.
    checksums : dict of str to str, default=None
        SHA-256 by file name, for all or some of the files, if you know them.  They take
        precedence over those in SHA256SUMS.

    Returns
    -------
    Bunch
        With ``eeg``, ndarray of shape (4514, 512), ``eog`` of shape (3400, 512) and
        ``emg`` of shape (5598, 512), in the ``unit`` "uV" and at ``sfreq`` 256.0 Hz;
        and ``DESCR``, the description, licence and source of the data.

    Raises
    ------
    ValueError
        If a file has the wrong contents, or `checksums` names an unknown file.
    OSError
        If a file is missing and `download_if_missing` is False, or the download fails.
    ImportError
        If pooch is not installed.

    See Also
    --------
    make_noisy_eeg : Mixes them.

    References
    ----------
    .. [1] H. Zhang, M. Zhao, C. Wei, D. Mantini, Z. Li, Q. Liu, "EEGdenoiseNet: a
       benchmark dataset for deep learning solutions of EEG denoising", Journal of
       Neural Engineering 18(5):056057, 2021, arXiv:2009.11662.

    Examples
    --------
    >>> from skmfr.datasets import fetch_eegdenoisenet, make_noisy_eeg
    >>> data = fetch_eegdenoisenet()  # doctest: +SKIP
    >>> noisy, clean, *_ = make_noisy_eeg(data.eeg, data.eog)  # doctest: +SKIP
    """
    checksums = checksums or {}
    if unknown := checksums.keys() - _EEGDENOISENET_SHAPES:
        raise ValueError(
            f"checksums may name {', '.join(_EEGDENOISENET_SHAPES)}, got "
            f"{', '.join(map(str, unknown))}."
        )
    folder = _data_folder(data_home, "eegdenoisenet")
    if not download_if_missing:
        _check_present(_EEGDENOISENET_SHAPES, folder)
    record = folder / "SHA256SUMS"
    checksums = (_read_checksums(record) if record.exists() else {}) | checksums
    arrays = {}
    for name, shape in _EEGDENOISENET_SHAPES.items():
        is_new = not (folder / name).exists()
        arrays[name[:3].lower()] = _fetch(
            name,
            folder,
            base_url,
            download_if_missing,
            sha256=checksums.get(name),
            read=partial(_read_epochs, shape=shape),
        )
        if is_new and name not in checksums:
            _record_checksum(folder / name, record)
    return Bunch(**arrays, sfreq=256.0, unit="uV", DESCR=_EEGDENOISENET_DESCR)


def _checked_numbers(name: str, values, choices: range) -> list[int]:
    """Indices of subjects, conditions or runs, as a list."""
    if wrong := [value for value in values if value not in choices]:
        raise ValueError(
            f"{name} must be from {choices[0]} to {choices[-1]}, got {wrong}."
        )
    return [int(value) for value in values]


def _data_folder(data_home: str | PathLike | None, name: str) -> Path:
    if data_home is None:
        return Path(get_data_home(), "skmfr", name)
    return Path(data_home).expanduser()


def _check_present(names: Iterable[str], folder: Path) -> None:
    if missing := [name for name in names if not (folder / name).exists()]:
        raise OSError(
            f"{', '.join(missing)} not found in {folder}, and download_if_missing is "
            "False."
        )


def _fetch(
    name: str,
    folder: Path,
    base_url: str,
    download_if_missing: bool,
    *,
    sha256: str | None = None,
    read: Callable[[Path], Any] = Path,
) -> Any:
    """Read a file, after downloading it unless it is intact."""
    with needed_by("Fetching EEG", "eeg"):
        import pooch

    def checked(path):
        try:
            return read(path)
        except (EOFError, ValueError) as error:  # NumPy raises both for damaged files
            raise ValueError(f"{name} in {folder} is refused: {error}") from error

    def download(url, output_file, pooch_object):
        pooch.HTTPDownloader()(url, output_file, pooch_object)
        checked(Path(output_file))  # a temporary file, renamed only if it is accepted

    path = folder / name
    intact = path.exists() and (
        sha256 is None or pooch.file_hash(path) == sha256.lower()
    )
    if not intact:
        if not download_if_missing:
            raise OSError(
                f"{name} in {folder} is damaged, and download_if_missing is False."
            )
        url = f"{base_url.rstrip('/')}/{name}"
        pooch.retrieve(url, sha256, fname=name, path=folder, downloader=download)
    return checked(path)


def _read_epochs(path: Path, shape: tuple[int, int]) -> np.ndarray:
    epochs = np.load(path)
    found = getattr(epochs, "shape", "several arrays")
    if found != shape:
        raise ValueError(f"its shape must be {shape}, not {found}.")
    return epochs


def _read_checksums(path: Path, names: list[str] | None = None) -> dict[str, str]:
    """Read SHA-256 by file name, at least for these names, in sha256sum's format."""
    lines = re.findall(r"^([0-9a-f]{64}) [ *]?(.+)$", path.read_text(), re.MULTILINE)
    checksums = {name: sha256 for sha256, name in lines}
    if missing := set(names or ()) - checksums.keys():
        raise ValueError(f"it does not list {', '.join(sorted(missing))}.")
    return checksums


def _record_checksum(path: Path, record: Path) -> None:
    import pooch

    with record.open("a") as file:
        file.write(f"{pooch.file_hash(path)}  {path.name}\n")
