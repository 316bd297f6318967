"""What a process of the catalogue can be asked to do with one model."""

from __future__ import annotations

from benchmarks.zoo.extras import extras
from benchmarks.zoo.peer import peer
from benchmarks.zoo.run_one import analyze, cut

TASKS = {"analyze": analyze, "cut": cut, "extras": extras, "peer": peer}
