"""Results of a benchmark that is called anew where it stopped: rows by name in JSON, and a table beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channelcut.core.files import write_atomically


def rows_in(results: Path) -> dict[str, Any]:
    """The rows that have been measured, of `results`.json."""
    file = results.with_suffix(".json")
    return dict(json.loads(file.read_text())["rows"]) if file.exists() else {}


def write_rows(results: Path, content: Mapping[str, Any], table: str) -> None:
    """Write `results`.json, whose `rows` is what was measured, and `results`.md, each replaced whole."""
    write_atomically(results.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(results.with_suffix(".md"), table.encode())
