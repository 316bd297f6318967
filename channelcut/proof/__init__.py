"""Verification: the cut model computes what the masked original computes, or it is not returned."""

from channelcut.proof.prover import verify

__all__ = ["verify"]
