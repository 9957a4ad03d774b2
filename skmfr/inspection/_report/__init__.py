"""Pages of atoms, for browsing and for blinded rating.

The folder has an underscore because importing a module named ``report`` would replace
the function :func:`skmfr.inspection.report`.
"""
