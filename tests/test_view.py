"""The coupled graph as data and as a picture, and what `channelcut analyze` says."""

from __future__ import annotations

import copy
import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from networks import NETWORKS, build, example
from report_data import Json, make_report
from torch import nn

import channelcut as cc
from channelcut.allocation import Budget
from channelcut.cli import main
from channelcut.core.errors import UserError
from channelcut.report import render_html
from channelcut.report.analysis import analysis_data
from channelcut.report.graph import graph_data
from channelcut.report.graph_layout import BAR, block_members, layout
from channelcut.report.graph_svg import draw_graph
from channelcut.report.reader import Part

SVG = "{http://www.w3.org/2000/svg}"


def named_edges(data: Json) -> set[tuple[str, str]]:
    names = [node["name"] for node in data["nodes"]]
    return {(names[edge["from"]], names[edge["to"]]) for edge in data["edges"]}


def drawn(data: Json) -> ElementTree.Element:
    return ElementTree.fromstring(draw_graph(Part(data, "graph"), standalone=True))


def test_layers_edges_and_depths_of_a_split_block() -> None:
    data = graph_data(cc.analyze(build("C2f"), example()))
    assert [node["name"] for node in data["nodes"]] == ["cv1.0", "m.0.0", "m.1.0", "cv2.0", "head"]
    assert [node["depth"] for node in data["nodes"]] == [0, 1, 2, 3, 4]
    assert named_edges(data) == {
        ("cv1.0", "m.0.0"), ("m.0.0", "m.1.0"), ("cv1.0", "cv2.0"), ("m.1.0", "cv2.0"), ("cv2.0", "head"),
    }  # fmt: skip
    head = data["nodes"][-1]
    assert head["parts"] == [{"group": None, "before": 4, "after": None}] and head["pins"] == ["network output"]
    assert data["nodes"][0]["group"] == data["nodes"][2]["group"] != data["nodes"][1]["group"]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_both_front_ends_draw_the_same_layers(name: str) -> None:
    """A linear layer is one op to torch.export, a transpose and a product to the recorder; a weight may be computed."""
    found = []
    for front_end in ("dispatch", "export"):
        try:
            found.append(graph_data(cc.analyze(build(name), example(), tracer=front_end, probe=False)))
        except cc.TraceError:
            pytest.skip("one front end refuses")
    assert named_edges(found[0]) == named_edges(found[1])
    assert [n["name"] for n in found[0]["nodes"]] == [n["name"] for n in found[1]["nodes"]]


def test_weights_that_are_computed_belong_to_the_layer_that_uses_them() -> None:
    data = graph_data(cc.analyze(build("WeightNorm"), example()))
    assert named_edges(data) == {("a", "b"), ("b", "c"), ("c", "head")}


@pytest.mark.parametrize("name", ["C2f", "Depthwise", "Residual"])
def test_widths_after_are_those_of_the_cut_model(name: str) -> None:
    result = cc.prune(build(name), example(), keep=0.5)
    data = graph_data(result.groups, result.plan)
    original = build(name)
    for node in data["nodes"]:
        assert node["after"] == result.model.get_submodule(node["name"]).weight.shape[0]
        assert node["before"] == original.get_submodule(node["name"]).weight.shape[0]
        for key in ("before", "after"):
            assert sum(part[key] for part in node["parts"]) == node[key]
    for group in data["groups"]:
        assert group["channels"] > group["kept"] > 0


def test_picture_shows_every_layer_once_and_repeats() -> None:
    result = cc.prune(build("C2f"), example(), keep=0.5)
    data = graph_data(result.groups, result.plan)
    picture = drawn(data)
    titles = [title.text or "" for title in picture.iter(f"{SVG}title")]
    assert [t.split(":")[0] for t in titles[3:]] == [node["name"] for node in data["nodes"]]
    assert "12→6 in group 0 (cv1.0.weight)" in titles[5] and "pinned: network output" in titles[-1]
    assert draw_graph(Part(data, "graph")) == draw_graph(Part(copy.deepcopy(data), "graph"))
    again = cc.prune(build("C2f"), example(), keep=0.5)
    assert graph_data(again.groups, again.plan) == data


def test_boxes_are_as_wide_as_their_channels_and_coloured_by_group() -> None:
    result = cc.prune(build("C2f"), example(), keep=0.5)
    layers = [
        g for g in drawn(graph_data(result.groups, result.plan)).iter(f"{SVG}g") if g.find(f"{SVG}rect") is not None
    ]
    (cv1, first, second, *_), head = layers[-5:], layers[-1]
    colours = [[rect.get("fill") for rect in g.iter(f"{SVG}rect")] for g in (cv1, first, second)]
    assert colours[0] == colours[2] != colours[1] and len(set(colours[0])) == 1
    widths = [[float(rect.get("width", 0)) for rect in g.iter(f"{SVG}rect")] for g in (cv1, first, second)]
    assert widths[0] == pytest.approx([6 * 24, 6 * 12]) and widths[1] == pytest.approx([6 * 8, 6 * 4])
    assert [rect.get("class") for rect in head.iter(f"{SVG}rect")] == ["held"]
    assert head.find(f"{SVG}line") is not None, "what is pinned is striped"


def test_hostile_names_stay_text() -> None:
    data = graph_data(cc.analyze(build("C2f"), example()))
    name = '</title><script x="1">&'
    data["nodes"][0] |= {"name": name, "op": name, "pins": [name]}
    data["groups"][0]["name"] = name
    picture = drawn(data)
    assert not list(picture.iter(f"{SVG}script"))
    assert any(name in (title.text or "") for title in picture.iter(f"{SVG}title"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edges": [{"from": 3, "to": 1}]}, r"graph.edges\[0\] leads from 3 to 1, expected two of the 5 layers"),
        ({"edges": [{"from": 0, "to": 5}]}, "leads from 0 to 5"),
        ({"edges": [{}]}, "leads from nowhere to nowhere"),
        ({"groups": []}, r"graph.nodes\[0\].parts\[0\].group is 0, expected the number of one of the 0 groups"),
    ],
)
def test_damaged_data_is_refused_with_its_place(change: Json, words: str) -> None:
    data = graph_data(cc.analyze(build("C2f"), example()))
    with pytest.raises(UserError, match=words):
        draw_graph(Part({**data, **change}, "graph"))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overlaps(seed: int) -> None:
    rng = random.Random(seed)
    count = 120
    names = [f"{rng.choice('abcd')}.{rng.randrange(9)}.{rng.randrange(9)}.conv" for _ in range(count)]
    widths = [float(rng.choice((1, 16, 64, 300, 2048))) for _ in range(count)]
    edges = [(i, j) for j in range(1, count) for i in rng.sample(range(j), min(j, rng.randrange(3)))]
    placed = layout(names, widths, [" 64→32"] * count, edges)
    boxes = sorted((p.y, p.x, p.x + p.width + 5 + 6.6 * len(p.text)) for p in placed.places)
    for (y, _, right), (below, left, _) in pairwise(boxes):
        assert below >= y + BAR + 10 or left >= right
    assert max(right for _, _, right in boxes) <= placed.width and boxes[-1][0] + BAR <= placed.height
    for first, second in pairwise(placed.blocks):
        assert second.y > first.y + first.height
    assert max(placed.lanes.values()) < min(p.x for p in placed.places)
    spans = {}
    for i, lane in placed.lanes.items():
        rows = [placed.places[i].row, *(placed.places[t].row for s, t in edges if s == i)]
        spans.setdefault(lane, []).append((min(rows), max(rows)))
    for found in spans.values():
        ordered = sorted(found)
        assert all(a[1] < b[0] for a, b in pairwise(ordered))


def test_blocks_follow_the_paths_and_large_ones_are_split() -> None:
    names = ["stem.conv", *(f"model.{i}.cv{j}.conv" for i in range(3) for j in range(6)), "model.9.head.0.a"]
    found = block_members(names)
    assert [title for title, _ in found] == ["stem", "model.0", "model.1", "model.2", "model.9"]
    assert sorted(i for _, members in found for i in members) == list(range(len(names)))


def test_page_has_the_picture_and_folds_a_large_one() -> None:
    report = make_report()
    assert '<section id="graph"' in render_html(report) and "<details open><summary>7 layers" in render_html(report)
    report["graph"]["nodes"] *= 20
    page = render_html(report)
    assert '<details class="aside"><summary>140 layers, 4 edges' in page


def test_what_hangs_on_a_group_is_what_has_a_position_in_it() -> None:
    model = build("C2f")
    groups = cc.analyze(model, example())
    data = analysis_data(model, groups)
    for group, row in zip(groups.groups, data["groups"], strict=True):
        count = 0
        for name, parameter in model.named_parameters():
            hanging = torch.zeros(parameter.shape, dtype=torch.bool)
            for slot in groups.slots:
                if slot.tensor == name:
                    inside = torch.from_numpy(np.isin(slot.channels, group.channels))
                    hanging |= inside.view([-1 if axis == slot.axis else 1 for axis in range(parameter.dim())])
            count += int(hanging.sum())
        assert row["params"] == pytest.approx(count)
    cv2 = next(row for row in data["groups"] if row["name"] == "cv2.0.weight")
    assert cv2["macs"] == pytest.approx(2 * 16 * 16 * (36 * 10 + 10 * 4))
    totals = data["totals"]
    assert totals["params"] == sum(p.numel() for p in model.parameters())
    assert 0 < totals["least_params"] < 0.2


class Pinned(nn.Module):
    """Two places of one reason over the same channels, and an op of its own reason."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        first = y.softmax(1)
        y = first + y.softmax(1)
        return self.head(torch.linalg.matrix_exp(self.b(y)))


def pinned() -> nn.Module:
    torch.manual_seed(0)
    return Pinned().eval()


def test_pins_by_reason_count_a_channel_once() -> None:
    data = analysis_data(pinned(), cc.analyze(pinned(), example()))
    found = {row["reason"]: row for row in data["reasons"]}
    softmax = found["every channel decides about the others"]
    assert softmax["channels"] == 8 and len(softmax["pins"]) == 2
    assert [row["channels"] for row in data["reasons"]] == sorted(
        (r["channels"] for r in data["reasons"]), reverse=True
    )
    assert found["an op without a rule"]["remedies"] == [
        "register a rule for aten.linalg_matrix_exp (see docs/rules.md)"
    ]
    assert sorted(i for row in data["reasons"] for i in row["pins"]) == list(range(len(data["pins"])))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def analyzed(factory: str, *flags: str) -> int:
    return main(["analyze", f"{Path(__file__).parent / factory}", "--input", "2x3x16x16", *flags])


def test_analyze_says_reasons_places_and_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    assert analyzed("test_view.py:pinned") == 0
    text = capsys.readouterr().out
    assert "Pinned: every channel decides about the others, 8 channels at 2 places" in text
    assert re.search(r"aten\._softmax in the model \(\S*tests/test_view.py:\d+\), 8 channels", text)
    assert text.count("remedy: register a rule for aten.linalg_matrix_exp (see docs/rules.md)") == 1
    assert re.search(r"Traced by recording the ops of one run: \d+ ops. No branch of training mode alone", text)
    assert "Largest groups" not in text


def test_analyze_says_what_hangs_and_what_can_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert analyzed("networks.py:residual") == 0
    text = capsys.readouterr().out
    data = analysis_data(build("Residual"), cc.analyze(build("Residual"), example()), Budget(macs=1.0, align=8))
    assert f"{1 - data['totals']['least_macs']:.1%} of" in text
    first = max(data["groups"], key=lambda g: g["params"])
    row = next(line for line in text.splitlines() if first["name"] in line)
    assert f"{first['params'] / data['totals']['params']:.1%}" in row and f" {first['slots']} " in row


def auxiliary() -> nn.Module:
    return build("AuxiliaryHead")


def many() -> nn.Module:
    """Twelve blocks that keep their widths."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.conv = 6, nn.Conv2d(3, 12, 1)
            self.out = nn.Conv2d(6, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.conv(x).split((self.c, self.c), 1)
            return self.out(a * b)

    torch.manual_seed(0)
    return nn.Sequential(*(Keeps() for _ in range(12))).eval()


def test_analyze_lists_ten_groups_and_ten_followers(capsys: pytest.CaptureFixture[str]) -> None:
    assert analyzed("test_view.py:many") == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if "kept share of" in line]
    assert len(lines) == 10 and lines[0].strip() == "0.c = 6 · kept share of 0.conv.weight"
    assert "  and 2 more\n" in text
    assert re.search(r"and \d+ smaller groups", text)


def test_branches_of_training_alone_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert analyzed("test_view.py:auxiliary") == 0
    assert "Training adds branches: 5 tensors with channels are read in training mode alone, aux.0.weight" in (
        capsys.readouterr().out
    )
    model = build("AuxiliaryHead")
    only = analysis_data(model, cc.analyze(model, example()))["trace"]["training_only"]
    assert only and all(name.startswith("aux.") for name in only)
    plain = build("C2f")
    assert analysis_data(plain, cc.analyze(plain, example()))["trace"]["training_only"] == []


def test_json_holds_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert analyzed("networks.py:residual", "--json") == 0
    found: Any = json.loads(capsys.readouterr().out)
    expected = analysis_data(build("Residual"), cc.analyze(build("Residual"), example()), Budget(macs=1.0, align=8))
    assert found.pop("weights")
    assert found["trace"]["ops"] == expected["trace"]["ops"] > 5
    assert found["graph"]["edges"] == expected["graph"]["edges"]
    # Where the caller's file stands decides how its lines are written.
    found, expected = (
        json.loads(re.sub(r'"source": "[^"]*"', '"source": ""', json.dumps(d))) for d in (found, expected)
    )
    assert found == expected


def test_svg_is_written_and_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "graph.svg"
    assert analyzed("networks.py:residual", "--svg", str(file), "--quiet") == 0
    first = file.read_bytes()
    assert ElementTree.fromstring(first).tag == f"{SVG}svg"
    assert analyzed("networks.py:residual", "--svg", str(file)) == 2
    assert "give another --svg, or --force to replace it" in capsys.readouterr().err
    file.write_text("old")
    assert analyzed("networks.py:residual", "--svg", str(file), "--force", "--quiet") == 0
    assert file.read_bytes() == first


def test_groups_print_a_compact_version() -> None:
    text = str(cc.analyze(pinned(), example()))
    assert re.match(r"0 groups, 0 removable channels, \d pins \(\d+ ops traced by dispatch\)", text)
    assert "pinned: every channel decides about the others (2 places), 8 channels, first at aten._softmax in" in text
    assert "follow: 0.c, 1.c, 2.c and 9 more" in str(cc.analyze(many(), example()))
