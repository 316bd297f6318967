"""What a process says while it works: lines of JSON in a file, so that one that is killed has said how far it came."""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import channelcut
from channelcut.core.errors import ChannelcutError

PACKAGE = Path(channelcut.__file__).parent


class Record:
    """Facts by name; a later line overrides an earlier one, and `seconds` of several lines are put together."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, **facts: Any) -> None:
        """Append facts; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts, default=str) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name what is running, for whoever finds the process dead, and time it."""
        self.say(stage=name)
        start = time.perf_counter()
        yield
        self.say(seconds={name: round(time.perf_counter() - start, 3)})

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Say how the work ended if it raises: refused on purpose, out of memory, or failed, and where."""
        try:
            yield
        except ChannelcutError as error:
            self.say(outcome="refused", reason=str(error))
        except MemoryError:
            self.say(outcome="memory")
        except Exception as error:  # noqa: BLE001  any failure is a row of the table
            lack = "can't allocate memory" in str(error) or "not enough memory" in str(error)
            self.say(**({"outcome": "memory"} if lack else {"outcome": "error", "reason": described(error)}))


def read(path: Path) -> dict[str, Any]:
    """All facts that a record holds; a last line that was cut off does not count."""
    found: dict[str, Any] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            facts = json.loads(line)
        except json.JSONDecodeError:
            break
        if "seconds" in facts:
            facts["seconds"] = {**found.get("seconds", {}), **facts["seconds"]}
        found |= facts
    return found


def described(error: BaseException) -> str:
    """`ValueError: what it says, at _ops.py:9 in call, from ids.py:31 in line`: the first line and where.

    The innermost frame, and the innermost one of channelcut where that is another.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in (*frames[-1:], *ours[-1:])]
    said = lines[0][:300] if lines else "no message"
    return f"{type(error).__name__}: {said}, at {', from '.join(dict.fromkeys(places))}"


def peak_mib() -> float:
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
