"""Many random networks: each ends as a proven cut that an independent check confirms, or as a refusal.

    python -m benchmarks.random_networks --count 2000      # writes benchmarks/results/random_networks.json

Network i is drawn from seed + i alone, so an interrupted run goes on where it stopped, as long as the code is the same.
The first failure of every sort is made smaller before it is written down. Exit status 1 where anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from channelcut.bench.environment import environment
from channelcut.core.files import write_atomically

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "random_networks.json"
SAVE_EVERY = 25
MOST_TRIES = 150


def code_fingerprint() -> str:
    """Identify the code under test and the networks: results of two versions must not be mixed."""
    digest = hashlib.sha256()
    for path in sorted(
        [*ROOT.glob("channelcut/**/*.py"), *ROOT.glob("tests/random*/*.py"), *ROOT.glob("tests/random*.py")]
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def fresh(seed: int) -> dict[str, Any]:
    """A result without networks."""
    counts = {"networks": 0, "proven": 0, "checked_independently": 0, "refused": 0, "failed": 0}
    return {
        "seed": seed,
        "code": code_fingerprint(),
        **counts,
        "seconds": 0.0,
        "refusals": {},
        "failures": [],
        "environment": environment(1),
    }


def resume(path: Path, seed: int) -> dict[str, Any]:
    """The stored result where it was made by this code from this seed, else a fresh one."""
    start = fresh(seed)
    if not path.exists():
        return start
    stored: dict[str, Any] = json.loads(path.read_text())
    same = all(stored.get(key) == start[key] for key in ("seed", "code"))
    return stored if same and stored["environment"]["libraries"] == start["environment"]["libraries"] else start


class Runner:
    """Draws, prunes and judges networks, and adds what comes of them to a result."""

    def __init__(self, result: dict[str, Any]) -> None:
        # The networks and the check live with the tests, which are no package.
        sys.path.insert(0, str(ROOT / "tests"))
        self.networks: Any = importlib.import_module("random_networks")
        self.judge: Any = importlib.import_module("random_check")
        self.result = result

    def step(self) -> None:
        """One more network."""
        index = self.result["networks"]
        description = self.networks.seeded(self.result["seed"] + index)
        options = self.judge.settings(index)
        start = time.perf_counter()
        outcome = self.judge.check(description, options)
        self.result["seconds"] += time.perf_counter() - start
        self.result["networks"] += 1
        if outcome.failed:
            self.result["failed"] += 1
            self.result["failures"].append(self.failure(index, description, options, outcome))
            return
        self.result[outcome.status] += 1
        self.result["checked_independently"] += outcome.checked
        if outcome.status == "refused":
            refusals = self.result["refusals"]
            refusals[outcome.reason] = refusals.get(outcome.reason, 0) + 1

    def failure(self, index: int, description: Any, options: dict[str, Any], outcome: Any) -> dict[str, Any]:
        """What to write down about a failure; the first of its sort is made smaller."""
        known = {(entry["status"], entry["reason"]) for entry in self.result["failures"]}
        tries = 0

        def same(candidate: Any) -> bool:
            nonlocal tries
            tries += 1
            if tries > MOST_TRIES:
                return False
            found = self.judge.check(candidate, options)
            return bool((found.status, found.reason) == (outcome.status, outcome.reason))

        if (outcome.status, outcome.reason) not in known:
            description = self.networks.shrink(description, same)
        return {
            "index": index,
            "status": outcome.status,
            "reason": outcome.reason,
            "detail": outcome.detail[-1500:].replace(str(ROOT), "."),
            "options": options,
            "smaller": tries > 0,
            "description": description.to_dict(),
        }

    def save(self, path: Path) -> None:
        """Write the result whole, refusals by number."""
        self.result["refusals"] = dict(sorted(self.result["refusals"].items(), key=lambda item: -item[1]))
        self.result["seconds"] = round(self.result["seconds"], 1)
        write_atomically(path, (json.dumps(self.result, indent=1) + "\n").encode())


def main() -> int:
    """Run until `--count` networks are judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runner = Runner(resume(flags.out, flags.seed))
    while runner.result["networks"] < flags.count:
        runner.step()
        if runner.result["networks"] % SAVE_EVERY == 0 or runner.result["networks"] == flags.count:
            runner.save(flags.out)
            counts = {key: runner.result[key] for key in ("networks", "proven", "refused", "failed")}
            print(f"{counts} in {runner.result['seconds']} s", flush=True)
    for entry in runner.result["failures"]:
        print(f"network {entry['index']} {entry['status']}: {entry['reason']}")
    return 1 if runner.result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
