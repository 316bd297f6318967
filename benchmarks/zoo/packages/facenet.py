"""facenet-pytorch: the three networks of MTCNN, and Inception-ResNet-v1 for embeddings and for classes."""

from __future__ import annotations

from benchmarks.zoo.catalogue import Example
from benchmarks.zoo.packages.recipe import Recipe

DISTRIBUTION = "facenet-pytorch"
MTCNN = "facenet_pytorch.models.mtcnn"
RESNET = "facenet_pytorch:InceptionResnetV1"
FACE = ((1, 3, 160, 160),)
RECIPES = {
    "PNet": Recipe(f"{MTCNN}:PNet", {"pretrained": False}, ((1, 3, 48, 48),)),
    "RNet": Recipe(f"{MTCNN}:RNet", {"pretrained": False}, ((2, 3, 24, 24),)),
    "ONet": Recipe(f"{MTCNN}:ONet", {"pretrained": False}, ((2, 3, 48, 48),)),
    "InceptionResnetV1": Recipe(RESNET, {"pretrained": None}, FACE),
    "InceptionResnetV1-classify": Recipe(RESNET, {"pretrained": None, "classify": True, "num_classes": 10}, FACE),
}


def names() -> list[str]:
    """All networks of the package."""
    return list(RECIPES)


def example(name: str) -> Example:
    """One network with random weights and faces of the size that it takes."""
    return RECIPES[name].example()
