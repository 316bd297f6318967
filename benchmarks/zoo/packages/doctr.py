"""docTR: finding text, reading it, telling pages apart; in the form that the library exports, which gives tensors."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "python-doctr"
LINE, PAGE, CROP, TEXT = ((1, 3, 32, 128),), ((1, 3, 256, 256),), ((1, 3, 256, 256),), ((1, 3, 32, 32),)
BARE = {"pretrained": False, "pretrained_backbone": False, "exportable": True}


def network(task: str, shapes: Any, *names: str, **options: Any) -> dict[str, Recipe]:
    """Architectures of one task."""
    return {name: Recipe(f"doctr.models.{task}:{name}", {"pretrained": False, **options}, shapes) for name in names}


RECIPES: dict[str, Recipe] = {
    **network("classification", TEXT, "magc_resnet31", "mobilenet_v3_small", "resnet18", "resnet31", "textnet_tiny"),
    **network("classification", TEXT, "vgg16_bn_r", "vit_s", "vip_tiny", "starnet_s3"),
    **network("classification", CROP, "mobilenet_v3_small_page_orientation"),
    **network("detection", PAGE, "db_resnet34", "db_mobilenet_v3_large", "linknet_resnet18", "fast_tiny", **BARE),
    **network("recognition", LINE, "crnn_vgg16_bn", "crnn_mobilenet_v3_small", "sar_resnet31", "master", **BARE),
    **network("recognition", LINE, "vitstr_small", "parseq", "viptr_tiny", **BARE),
    **network("layout", ((1, 3, 1024, 1024),), "lw_detr_s", exportable=True),
    **network("table_structure", PAGE, "tablecenternet", **BARE),
}


def names() -> list[str]:
    """One or two of every task's families."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights and an image of the size that the task takes."""
    return RECIPES[name].example()
