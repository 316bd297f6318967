"""`python -m benchmarks.zoo`: every way a model can end is a row, rows stay, and the tables say what is in them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.zoo.__main__ import Results, main, row
from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.lively import enliven
from benchmarks.zoo.peer import ignored_layers
from benchmarks.zoo.processes import ended
from benchmarks.zoo.record import Record, read
from benchmarks.zoo.tables import summary_table

ROOT = Path(__file__).parent.parent


def rows(results: Path) -> dict[str, dict]:
    data = json.loads((results / "fake_zoo.json").read_text())
    return {row["name"]: row for row in data["rows"]}


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.chdir(ROOT)


def command(results: Path, *more: str) -> list[str]:
    return ["--zoo", "fake_zoo", "--results", str(results), "--quiet", *more]


def test_every_end_is_a_row_and_rows_stay(tmp_path, capsys):
    results = tmp_path / "zoo"
    main(command(results, "plain", "--limit-s", "120"))
    main(command(results, "broken", "ended", "large", "--memory-gib", "4", "--no-peer"))
    main(command(results, "slow", "--limit-s", "6", "--no-peer"))
    found = rows(results)
    assert list(found) == ["plain", "broken", "slow", "ended", "large"], "the order of the catalogue"
    plain = found["plain"]
    assert plain["outcome"] == "proven" and plain["max_relative_error"] < 1e-9
    assert plain["peer"]["outcome"] == "cut" and plain["params_ratio"] == plain["peer"]["params_ratio"] < 0.6
    assert plain["groups"] == 1 and plain["pin_reasons"] == {"network output": 1} and plain["no_rule"] == {}
    assert {"trace", "couple", "build"} <= plain["seconds"].keys()
    assert found["broken"]["outcome"] == "error"
    assert found["broken"]["reason"].startswith("ValueError: no such | layer, at fake_zoo.py:")
    assert found["slow"] | {"wall_s": 0} == {
        "name": "slow",
        "stage": "build",
        "outcome": "timeout",
        "reason": "build was running when 6 s had passed",
        "wall_s": 0,
    }
    assert found["ended"]["outcome"] == "error" and "exit status 3 during build" in found["ended"]["reason"]

    assert found["large"]["outcome"] == "memory"

    before = (results / "fake_zoo.json").read_bytes()
    main(command(results, "--no-peer"))
    assert (results / "fake_zoo.json").read_bytes() == before, "nothing is measured twice"

    summary = (tmp_path / "zoo.md").read_text()
    assert "| fake_zoo | 5 | 1 | 0 | 2 | 1 | 1 |" in summary
    assert "- `broken`: error. ValueError: no such \\| layer" in summary
    assert "- `plain`" not in summary
    assert "| plain | proven |" in (results / "fake_zoo.md").read_text()
    assert summary in capsys.readouterr().out


def test_a_row_that_lacks_the_peer_gets_it_and_nothing_else(tmp_path):
    class Asked:
        def __init__(self):
            self.tasks = []

        def run(self, task, *where):
            self.tasks.append(task)
            return {"outcome": task}

    flags = Namespace(peer=True, quick=False, extras=True, fresh=False, names=[])
    results = Results(tmp_path, "fake_zoo", ["plain"])
    results.add({"name": "plain", "outcome": "proven", "prune_s": 1.5})
    assert results.lack("plain", flags) and results.lack("other", flags)
    asked = Asked()
    found = row(asked, "fake_zoo", "plain", flags, results.known("plain", flags))
    assert asked.tasks == ["peer"]
    assert found == {"name": "plain", "outcome": "proven", "prune_s": 1.5, "peer": {"outcome": "peer"}}
    results.add(found)
    assert not results.lack("plain", flags)
    assert results.known("plain", Namespace(**{**vars(flags), "fresh": True})) is None


def test_what_is_not_asked_again_stays(tmp_path):
    results = Results(tmp_path, "fake_zoo", ["plain"])
    peer, extras = {"outcome": "cut"}, {"onnx": "ok"}
    results.add({"name": "plain", "outcome": "proven", "prune_s": 2.0, "peer": peer, "extras": extras})
    results.add({"name": "plain", "outcome": "proven", "prune_s": 1.0})
    assert rows(tmp_path)["plain"] == {
        "name": "plain", "outcome": "proven", "prune_s": 1.0, "peer": peer, "extras": extras
    }  # fmt: skip
    results.add({"name": "plain", "outcome": "error", "peer": {"outcome": "timeout"}})
    assert rows(tmp_path)["plain"] == {"name": "plain", "outcome": "error", "peer": {"outcome": "timeout"}}


def test_quick_traces_and_couples_only(tmp_path):
    main(command(tmp_path / "zoo", "plain", "--quick"))
    row = rows(tmp_path / "zoo")["plain"]
    assert row["outcome"] == "coupled" and row["groups"] == 1 and "peer" not in row


def test_an_interrupt_ends_the_model_and_keeps_the_rows(tmp_path):
    results = tmp_path / "zoo"
    main(command(results, "plain", "--quick"))
    arguments = [sys.executable, "-m", "benchmarks.zoo", *command(results, "slow", "--quick")]
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A child of a job in the background would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  it only sets a signal
    )
    time.sleep(8)
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0 and time.perf_counter() - start < 60
    assert list(rows(results)) == ["plain"]


def test_a_record_survives_a_cut_off_line_and_joins_seconds(tmp_path):
    record = Record(tmp_path / "r.jsonl")
    record.say(stage="trace", seconds={"build": 1})
    record.say(stage="couple", seconds={"trace": 2})
    with record.path.open("a") as file:
        file.write('{"stage": "ver')
    assert read(record.path) == {"stage": "couple", "seconds": {"build": 1, "trace": 2}}


def test_how_a_process_ended_without_a_word():
    assert ended(-signal.SIGKILL, "verify", [], None) == {
        "outcome": "memory",
        "reason": "the system ended it during verify",
    }
    assert ended(-signal.SIGSEGV, "trace", [], None)["reason"] == "SIGSEGV during trace"


def test_lively_weights_let_signals_through_and_tell_channels_apart():
    layers = [module for _ in range(30) for module in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(*layers).eval()
    example = Example(model, (torch.rand(1, 8, 8, 8),))
    enliven(example)
    assert float(example.run().std()) > 0.1
    assert all(len(p.unique()) > 1 for p in model.parameters())


def test_the_peer_is_told_the_layers_that_give_the_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.cls, self.box = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(8, 4)

        def forward(self, x):
            x = self.stem(x).relu()
            return {"cls": self.cls(x).sigmoid(), "box": self.box(x.flatten(2).transpose(1, 2))}

    model = Two()
    assert ignored_layers(Example(model, (torch.rand(1, 3, 8, 8),))) == [model.cls, model.box]


def test_the_summary_compares_times_where_both_work():
    rows = [
        {"name": "a", "outcome": "proven", "seconds": {"trace": 1.0, "couple": 0.5}},
        {"name": "b", "outcome": "refused", "reason": "why", "no_rule": {"aten.x": 2}},
    ]
    rows[0]["seconds"]["torch.export"] = 3.0
    rows[0]["peer"] = {"outcome": "cut", "seconds": {"graph": 0.25}, "params_ratio": 0.5}
    rows[1]["peer"] = {"outcome": "error", "reason": "IndexError"}
    text = summary_table({"z": {"rows": rows}})
    assert (
        "| z | 2 | 1 | 1 | 0 | 0 | 0 | 1.00 / 1.00 s | 0.50 / 0.50 s | 3.00 / 3.00 s | 0.50 / 0.50 (1 models) "
        "| 1 of 2 | 0.25 / 0.25 s | 1.50 / 1.50 s |" in text
    )
    assert "- `b`: refused. why" in text and "- `aten.x`: 1" in text
