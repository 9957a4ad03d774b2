"""Pages of atoms: to look through, and to rate without knowing whose they are.

The folder has an underscore, as importing a module ``report`` would put it in the place
of the function :func:`skmfr.inspection.report`.
"""
