"""Current YOLOs, unmodified, from their YAML: cut, proven, and trainable afterwards."""

from __future__ import annotations

import pytest
import torch

import channelcut as cc
from channelcut.adapters import open_source

pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")


@pytest.mark.parametrize(("name", "params"), [("yolov8n", 0.33), ("yolo11n", 0.36), ("yolo26n", 0.42)])
def test_half_of_every_group_goes_and_is_proven(name: str, params: float) -> None:
    model = open_source(f"ultralytics:{name}.yaml").build()
    result = cc.prune(model, torch.rand(1, 3, 256, 256), keep=0.5)
    assert result.proof.passed
    assert result.proof.max_relative_error <= 1e-9
    assert result.proof.training == "passed"
    assert result.plan.params_ratio < params
    assert sum(p.numel() for p in result.model.parameters()) == result.plan.after.params


def test_the_hard_coded_widths_of_c2psa_are_named() -> None:
    model = open_source("ultralytics:yolo26n.yaml").build()
    pins = cc.analyze(model, torch.rand(1, 3, 256, 256)).pins
    places = {(p.module, p.op) for p in pins if p.reason == "the forward hard-codes this width"}
    assert ("model.10", "aten.split_with_sizes") in places


def test_the_detached_head_of_yolo26_is_coupled() -> None:
    """The one-to-one head reads the features through detach; both heads' first layers lose the same inputs."""
    model = open_source("ultralytics:yolo26n.yaml").build()
    result = cc.prune(model, torch.rand(1, 3, 256, 256), keep=0.5)
    heads = [n for n in result.plan.kept if n.endswith("0.0.conv.weight") or n.endswith("0.1.conv.weight")]
    assert any("one2one" in n for n in heads)
    assert any("one2one" not in n and ".23." in n for n in heads)
