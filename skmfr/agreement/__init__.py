"""Agreement of dictionaries, atom by atom, and the agreement of chance.

All cosines are signed: codes are non-negative, so an atom and its negative are two
different features.  Atoms may have any length; an atom of zeros, which has no
direction, has cosine 0 with all.

Nearest atoms are found in blocks, so that 32,768 atoms against as many take less than
1 GB.  One-to-one matchings are exact (Hungarian algorithm) up to 8192 atoms.  Above,
they are the best among candidates, the 16 nearest atoms in both directions, and again
among those atoms that are left without a partner.
"""

from ._comparing import compare
from ._dictionaries import (
    feature_agreement,
    matched_cosine,
    mmcs,
    nearest_atoms,
    pw_mcc,
    random_agreement,
    shared_fraction,
)
from ._returning import reappearance, trusted_atoms
from ._subspaces import SubspaceAgreement, subspace_agreement

__all__ = [
    "SubspaceAgreement",
    "compare",
    "feature_agreement",
    "matched_cosine",
    "mmcs",
    "nearest_atoms",
    "pw_mcc",
    "random_agreement",
    "reappearance",
    "shared_fraction",
    "subspace_agreement",
    "trusted_atoms",
]
