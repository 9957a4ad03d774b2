"""The tests with other versions than those at hand, and the files of a release.

All sessions need uv; those of the tests need Python 3.10 or 3.13.
"""

from glob import glob

import nox

nox.options.default_venv_backend = "uv"


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The lower bounds of pyproject.toml, as they stand there."""
    session.install("--resolution=lowest-direct", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """Whatever is newest today."""
    session.install("--upgrade", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.13")
def without_numba(session: nox.Session) -> None:
    """The newest, where Numba does not support Python or the machine."""
    session.install("--upgrade", ".[test]")
    session.run_install("uv", "pip", "uninstall", "numba")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """The files of a release, in dist."""
    session.install("build[uv]", "twine", "py-rattler-build")
    session.run("python", "recipe/check.py")
    session.run("python", "-m", "build", "--installer=uv")
    session.run("python", "-m", "twine", "check", "--strict", *glob("dist/*"))
