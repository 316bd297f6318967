"""Proof: the cut model computes what the masked original computes, or it is not returned."""

from channelcut.proof.each import guilty, prove_each
from channelcut.proof.prover import NOTHING_SHOWN, Retraced, proof_of

__all__ = ["NOTHING_SHOWN", "Retraced", "guilty", "proof_of", "prove_each"]
