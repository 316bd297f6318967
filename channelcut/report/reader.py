"""Reading report.json: every part may be missing, and what is there is checked where it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channelcut.core.checked import read_json
from channelcut.core.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Part:
    """An object of the report and the place where it stands, for error texts. Missing and null read the same."""

    data: Mapping[str, Any]
    place: str = "report"

    def __bool__(self) -> bool:
        return bool(self.data)

    def part(self, key: str) -> Part:
        """The object under `key`; empty where there is none."""
        value = self.data.get(key)
        return Part({} if value is None else self._expect(key, value, Mapping, "an object"), self._at(key))

    def parts(self, key: str) -> list[Part]:
        """The objects of the list under `key`."""
        return [
            Part(self._expect(f"{key}[{i}]", value, Mapping, "an object"), self._at(f"{key}[{i}]"))
            for i, value in enumerate(self._list(key))
        ]

    def number(self, key: str) -> float | None:
        """The finite number under `key`; None where it is missing, NaN or infinite."""
        value = self.data.get(key)
        return None if value is None else self._number(key, value)

    def numbers(self, key: str) -> list[float | None]:
        """The numbers of the list under `key`, those that are not finite as None."""
        return [self._number(f"{key}[{i}]", value) for i, value in enumerate(self._list(key))]

    def text(self, key: str) -> str:
        """The text under `key`; a number or another value as JSON; empty where there is none."""
        return as_text(self.data.get(key))

    def texts(self, key: str) -> list[str]:
        """The list under `key` as texts."""
        return [as_text(value) for value in self._list(key)]

    def _list(self, key: str) -> Sequence[Any]:
        value = self.data.get(key)
        found: Sequence[Any] = [] if value is None else self._expect(key, value, (list, tuple), "a list")
        return found

    def _number(self, key: str, value: Any) -> float | None:
        if isinstance(value, bool):
            raise self._wrong(key, value, "a number")
        number = self._expect(key, value, (int, float), "a number")
        return number if math.isfinite(number) else None

    def _expect(self, key: str, value: Any, kind: type | tuple[type, ...], words: str) -> Any:
        if not isinstance(value, kind):
            raise self._wrong(key, value, words)
        return value

    def _wrong(self, key: str, value: Any, words: str) -> UserError:
        return UserError(
            f"The report is damaged: {self._at(key)} is {type(value).__name__}, expected {words}. "
            "Write report.json again with the version that reads it."
        )

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}"


def read_report(folder: Path) -> dict[str, Any]:
    """Read `report.json` of a result folder, with what `verify` and `profile` have left beside it.

    Raises:
        UserError: the folder is no result, or one of the files is damaged.
    """
    missing = f"{folder} is no result of `channelcut compress`: it has no report.json."
    data = read_json(
        Path(folder) / "report.json", missing, "Write the result again with `channelcut compress --force`."
    )
    for extra in ("parity", "profile"):
        found = Path(folder) / f"{extra}.json"
        if found.is_file():
            data[extra] = read_json(found, f"{found} is gone.", "Delete it, or write it again.")
    return data


def read(report: Mapping[str, Any]) -> Part:
    """The report as a `Part`; raises `UserError` for a format that this version does not know."""
    found = report.get("format", FORMAT)
    if found != FORMAT:
        raise UserError(
            f"The report has format {found!r}; this version of channelcut reads format {FORMAT}. Render it with the "
            "version that wrote it, or write it again."
        )
    return Part(report)


def as_text(value: Any) -> str:
    """A JSON value as people read it: text as it is, nothing for null, everything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
