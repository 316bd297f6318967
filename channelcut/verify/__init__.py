"""Verification: the cut model computes what the masked original computes, or it is not returned."""

from channelcut.verify.proof import verify

__all__ = ["verify"]
