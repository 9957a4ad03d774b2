"""The tests with the oldest and with the newest of all that skmfr needs.

``nox -s oldest`` and ``nox -s newest``; both need uv, and Python 3.10 and 3.13.
"""

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
