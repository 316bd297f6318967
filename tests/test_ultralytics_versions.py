"""The oldest release of Ultralytics that is supported, and the installed one: the newest, in a fresh environment.

`make` puts the oldest into a folder of its own beside the environment's packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import channelcut as cc
from channelcut.adapters.ultralytics.version import OLDEST, require_ultralytics

ultralytics = pytest.importorskip("ultralytics")

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("CHANNELCUT_OLDEST_ULTRALYTICS", Path(sys.prefix) / "oldest-ultralytics"))
HEADS = {
    "None": ([1, 6, 320], "Detect, one-to-many", "left to the caller"),
    "False": ([1, 300, 6], "Detect, one-to-one", "none needed"),
    "True": ([1, 300, 6], "Detect, one-to-many", "in the file"),
}


@pytest.mark.parametrize("release", ["installed", "oldest"])
def test_the_life_of_a_cut_detector(release: str, tmp_path: Path) -> None:
    first = []
    if release == "oldest":
        if not (FOLDER / "ultralytics").is_dir():
            pytest.skip(f"pip install --no-deps --target {FOLDER} ultralytics=={OLDEST}")
        first = [str(FOLDER)]
    found = lived(tmp_path, first)
    assert found["version"] == (OLDEST if first else ultralytics.__version__)
    assert {
        nms: (shape, words["head"], words["suppression"]) for nms, (shape, words) in found["heads"].items()
    } == HEADS
    assert {"args", "end2end", "imgsz", "names", "stride", "task"} <= set(found["metadata"])
    assert found["theirs"] == found["trained"] == found["cut"]
    assert "from channelcut.adapters.ultralytics import YOLO" in found["refused"]
    assert found["map"][0] == pytest.approx(found["map"][1], abs=0.002)


def lived(folder: Path, first: list[str]) -> dict[str, Any]:
    """What `ultralytics_life.py` prints."""
    own = {"PYTHONPATH": os.pathsep.join([*first, str(ROOT)]), "YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "ultralytics_life.py"), str(folder)],
        env={**os.environ, **own, "YOLO_AUTOINSTALL": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_older_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f'"ultralytics>={OLDEST}"' in (ROOT / "pyproject.toml").read_text()
    require_ultralytics("This")
    monkeypatch.setattr(ultralytics, "__version__", "8.4.99")
    with pytest.raises(cc.UserError, match=rf"needs Ultralytics {OLDEST} or later, and 8.4.99 is installed"):
        require_ultralytics("This")
    with pytest.raises(cc.UserError, match=r"YOLO needs Ultralytics .* Run: pip install -U"):
        _ = cc.ultralytics.YOLO
