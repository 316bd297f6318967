"""Current YOLOs, unmodified, from their YAML: cut, proven, and trainable afterwards."""

from __future__ import annotations

import pytest
import torch

import channelcut as cc
from channelcut.adapters import adapter_of
from channelcut.core.deployed import Deploy
from channelcut.core.sensitivity import Projections, differentiable, squared_gradients
from channelcut.sources import open_source

pytest.importorskip("ultralytics", reason="Ultralytics is not installed: pip install 'channelcut[ultralytics]'")


@pytest.mark.parametrize(("name", "params"), [("yolov8n", 0.26), ("yolo11n", 0.26), ("yolo26n", 0.26)])
def test_half_of_every_group_goes_and_is_proven(name: str, params: float) -> None:
    model = open_source(f"ultralytics:{name}.yaml").build()
    result = cc.prune(model, torch.rand(1, 3, 256, 256), keep=0.5)
    assert result.proof.passed
    assert result.proof.max_relative_error <= 1e-9
    assert result.proof.training == "passed"
    assert result.plan.params_ratio < params
    deployed = (p for n, p in result.model.named_parameters() if "one2one" not in n)  # the head that is not deployed
    assert sum(p.numel() for p in deployed) == result.plan.after.params


def test_the_hard_coded_widths_of_c2psa_and_c2f_follow() -> None:
    model = open_source("ultralytics:yolo26n.yaml").build()
    result = cc.prune(model, torch.rand(1, 3, 256, 256), keep=0.5)
    attention = result.plan.attributes["model.10.m.0.attn"]
    assert (attention["key_dim"], attention["head_dim"]) == (16, 32)
    assert result.plan.attributes["model.10"]["c"] == 64
    assert result.model.model[4].c == model.model[4].c // 2  # C2f keeps its width for another form of its forward
    assert result.model.model[10].m[0].attn.scale == model.model[10].m[0].attn.scale


def test_feature_maps_are_free_but_predictions_are_not() -> None:
    """The head returns its inputs beside the predictions; nobody counts their channels."""
    model = open_source("ultralytics:yolov8n.yaml").build()
    held = cc.analyze(model, torch.rand(1, 3, 256, 256), prunable_outputs=())
    free = cc.analyze(model, torch.rand(1, 3, 256, 256))
    assert "network output" in {p.reason for p in free.pins}
    assert sum(g.channels.size for g in free.groups) > sum(g.channels.size for g in held.groups)


def test_the_detached_head_of_yolo26_is_coupled() -> None:
    """The one-to-one head reads the features through detach; both heads' first layers lose the same inputs."""
    model = open_source("ultralytics:yolo26n.yaml").build()
    result = cc.prune(model, torch.rand(1, 3, 256, 256), keep=0.5)
    heads = [n for n in result.plan.kept if n.endswith("0.0.conv.weight") or n.endswith("0.1.conv.weight")]
    assert any("one2one" in n for n in heads)
    assert any("one2one" not in n and ".23." in n for n in heads)


@pytest.mark.parametrize(("nms", "deployed"), [(None, True), (False, False)])
def test_gradients_are_of_the_deployed_head_alone(nms: bool | None, deployed: bool) -> None:
    """Of either head, in evaluation mode, they reach the backbone; of a frozen checkpoint as of any other."""
    model = open_source("ultralytics:yolo26n.yaml").build().requires_grad_(False)
    weighed = Projections(adapter_of(model).weighing(model, Deploy(nms=nms)))
    layers = ["model.0.conv", "model.23.cv2.0.0.conv", "model.23.one2one_cv2.0.0.conv"]
    found = squared_gradients(differentiable(model), ((torch.rand(1, 3, 64, 64),), {}), layers, weighed)
    assert [found[layer][0] is not None for layer in layers] == [True, deployed, not deployed]
