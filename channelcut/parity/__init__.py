"""Parity: do all files of a model compute what the model computes, each compared with the form before it?"""

from channelcut.parity.chain import Decode, Difference, Matching, Stage, Tolerance, difference, run_chain
from channelcut.parity.files import compare_files

__all__ = ["Decode", "Difference", "Matching", "Stage", "Tolerance", "compare_files", "difference", "run_chain"]
