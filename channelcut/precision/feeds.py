"""Inputs to calibrate and judge on: images, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from channelcut.core.errors import UserError
from channelcut.onnx_out.inputs import image_like, random_array
from channelcut.precision.quantize import Feed

Array = npt.NDArray[Any]


def feeds_from_images(model: onnx.ModelProto, images: Array) -> list[Feed]:
    """One feed an image (n, C, H, W); raises `UserError` for a model that takes something else."""
    inputs = _inputs(model)
    if len(inputs) != 1:
        raise UserError(f"Images feed a model with one input; this one has {len(inputs)}.")
    wanted = _shape(inputs[0], images.shape[2:])
    if wanted[0] != 1 or tuple(images.shape[1:]) != tuple(wanted[1:]):
        raise UserError(
            f"The images have shape {images.shape[1:]} and the model's input {wanted}: expected a batch of 1 (or "
            "an open one) and equal channels, height and width."
        )
    return [{inputs[0].name: image[None].astype(np.float32)} for image in images]


def random_feeds(model: onnx.ModelProto, count: int, size: Sequence[int], seed: int) -> list[Feed]:
    """`count` feeds of smooth random inputs; `size` fills an open height and width."""
    generator = np.random.default_rng(seed)

    def value(info: onnx.ValueInfoProto) -> Array:
        shape = _shape(info, size)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        return image_like(shape, generator) if dtype == np.float32 else random_array(shape, dtype, generator)

    return [{info.name: value(info) for info in _inputs(model)} for _ in range(count)]


def image_shape(model: onnx.ModelProto, size: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) of the model's one image input; raises `UserError` when it has another form."""
    shapes = [_shape(i, size) for i in _inputs(model)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(f"Images feed a model with one input (N, C, H, W); this one has inputs of shapes {shapes}.")
    _, channels, height, width = shapes[0]
    return channels, height, width


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def _shape(value: onnx.ValueInfoProto, size: Sequence[int]) -> list[int]:
    """The input's shape: an open batch is 1, an open height or width that of `size`."""
    dims = value.type.tensor_type.shape.dim
    fill = (1, 3, *size)
    return [d.dim_value or (fill[i] if i < len(fill) else 1) for i, d in enumerate(dims)]
