"""Damaged files: what loads is exactly what was saved, and all else is one clear error."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from report_data import make_report
from torch import nn

import channelcut as cc
from channelcut.core.checked import read_json, write_json
from channelcut.core.errors import UserError
from channelcut.engine.timing_cache import read_cache, write_cache
from channelcut.report import render_html
from channelcut.report.reader import read_report

Damage = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def swap(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + draw.choice('0123456789{}[]",:-e.').encode() + data[place + 1 :]


def cut_short(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def leave_out(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 40) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start : start + draw.randrange(1, 40)] * 2 + data[start + 40 :]


def zeros(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + bytes(min(16, len(data) - start)) + data[start + 16 :]


def other_number(data: bytes, draw: random.Random) -> bytes:
    numbers = list(re.finditer(rb"\b\d+\b", data))
    found = draw.choice(numbers) if numbers else None
    value = draw.choice([b"-1", b"999999999", b"1e308", b"null", b'"x"', b"true", b"[]", b"NaN", b"9" * 5000])
    return swap(data, draw) if found is None else data[: found.start()] + value + data[found.end() :]


def other_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def nest(data: bytes, draw: random.Random) -> bytes:
    return b"[" * 100_000 if draw.random() < 0.5 else b"[" + data + b"]"


DAMAGES: list[Damage] = [flip, swap, cut_short, leave_out, repeat, zeros, other_number, other_line, nest]


class Net(nn.Module):
    """With batch norm, a buffer and a number that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.a, self.n, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.n(self.a(x)).relu()
        return self.b(y.view(len(x), self.width, -1, 1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, nn.Module]:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    result = cc.prune(Net().eval(), x, keep=0.5, calibration=torch.rand(4, 3, 8, 8))
    folder = tmp_path_factory.mktemp("damage") / "result"
    cc.save(result, folder)
    return folder, x, result.model


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", ["plan.json", "model.safetensors"])
def test_a_damaged_result(saved: Any, tmp_path: Path, file: str, damage: Damage) -> None:
    folder, x, model = saved
    content, expected, draw = (folder / file).read_bytes(), model.state_dict(), random.Random(f"{file} {damage}")
    broken = tmp_path / "result"
    shutil.copytree(folder, broken)
    refused = 0
    for _ in range(60):
        (broken / file).write_bytes(damage(content, draw))
        try:
            again = cc.load(Net, broken)
        except UserError as error:
            assert "damaged" in str(error) and str(broken / file) in str(error)
            refused += 1
            continue
        assert torch.equal(again(x), model(x))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert refused > 30


def walk(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of everything in nested data."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, value in inside for place in walk(value, (*path, key))]


def test_a_plan_is_checked_before_anything_is_built_from_it(saved: Any) -> None:
    """Every part of the data, replaced by something of another kind or left out: a plan as good, or an error."""
    plain = json.loads((saved[0] / "plan.json").read_text())
    draw = random.Random(0)
    for path in walk(plain):
        for value in (None, "x", -1, 2.5, [], {}, [[1]], {"a": {}}, True, ...):
            data = json.loads(json.dumps(plain))
            owner = data
            for step in path[:-1]:
                owner = owner[step]
            if value is ...:
                del owner[path[-1]]
            else:
                owner[path[-1]] = value
            try:
                plan = cc.Plan.from_dict(data)
            except UserError as error:
                assert str(error).startswith(("The plan is damaged: ", "The proof is damaged: "))
                continue
            assert cc.Plan.from_dict(plan.to_dict()) == plan
            if draw.random() < 0.05:
                with_plan(plan)


def with_plan(plan: cc.Plan) -> None:
    try:
        cc.apply(Net(), plan)
    except UserError:
        return


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kept": {"a.weight": {"0": [3, 1, 3]}}}, r"kept\['a.weight'\]\['0'\] is no list of positions"),
        ({"kept": {"a.weight": {"-1": [1]}}}, "expected the number of an axis"),
        ({"kept": {"a.weight": {"0": [True]}}}, r"\[0\] is True, expected a position"),
        ({"format": 7}, "format is 7, expected 1"),
        ({"groups": [{"name": "a", "lanes": 1, "width": 4, "kept": 5}]}, "keeps 5 of 4"),
        ({"before": {"macs": float("nan"), "params": 1}}, "before.macs is nan"),
        ({"changes": [{"images": 3}]}, r"changes\[0\].step is missing"),
    ],
)
def test_a_plan_that_is_wrong_says_where(saved: Any, change: dict[str, Any], words: str) -> None:
    plain = json.loads((saved[0] / "plan.json").read_text())
    with pytest.raises(UserError, match=words):
        cc.Plan.from_dict({**plain, **change})


def test_a_plan_of_numbers_that_the_model_lacks(saved: Any) -> None:
    plain = json.loads((saved[0] / "plan.json").read_text())
    for attributes in ({"gone": {"width": 3}}, {"": {"gone": 3}}, {"a": {"kernel_size.9": 3}}):
        with pytest.raises(UserError, match="there is no such number"):
            cc.apply(Net(), cc.Plan.from_dict({**plain, "attributes": attributes}))
    for kept in ({"a.weight": {0: [99]}}, {"a.weight": {9: [0]}}, {"gone": {0: [0]}}):
        with pytest.raises(UserError, match="changed or damaged"):
            cc.apply(Net(), cc.Plan.from_dict({**plain, "kept": texts(kept)}))


def texts(kept: dict[str, dict[int, list[int]]]) -> dict[str, dict[str, list[int]]]:
    return {name: {str(axis): positions for axis, positions in axes.items()} for name, axes in kept.items()}


def test_what_is_no_file(saved: Any, tmp_path: Path) -> None:
    for file in ("plan.json", "model.safetensors"):
        broken = tmp_path / file
        shutil.copytree(saved[0], broken)
        (broken / file).unlink()
        with pytest.raises(UserError, match=r"has no plan.json|cannot be read"):
            cc.load(Net, broken)
        (broken / file).mkdir()
        with pytest.raises(UserError, match="cannot be read"):
            cc.load(Net, broken)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", ["report", "profile", "parity"])
def test_a_damaged_report(tmp_path: Path, file: str, damage: Damage) -> None:
    report, draw = make_report(), random.Random(f"{file} {damage}")
    parts = {name: report.pop(name, {}) or {} for name in ("profile", "parity")} | {"report": report}
    for name, data in parts.items():
        write_json(tmp_path / f"{name}.json", data)
    whole, content = read_report(tmp_path), (tmp_path / f"{file}.json").read_bytes()
    assert render_html(whole)
    for _ in range(30):
        (tmp_path / f"{file}.json").write_bytes(damage(content, draw))
        try:
            assert read_report(tmp_path) == whole
        except UserError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_cache(tmp_path: Path, damage: Damage) -> None:
    path, draw, known = tmp_path / "kernels.cache", random.Random(str(damage)), bytes(range(256)) * 8
    write_cache(path, known)
    content = path.read_bytes()
    assert read_cache(path) == known
    for _ in range(60):
        path.write_bytes(damage(content, draw))
        try:
            assert read_cache(path) == known
        except UserError as error:
            assert "Delete it" in str(error)


def test_json_means_the_same_in_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": {"x": Path("y")}})
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_json(path, "", "") == {"b": [1, 2.5, None], "a": {"x": "y"}}
