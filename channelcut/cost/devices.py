"""Devices as their vendors describe them: peak rates, memory bandwidth, and the channels that their kernels go by.

Rates are of dense arithmetic: where a datasheet gives those of 2:4 sparsity alone, half of them. Multiply-accumulates
count once (a FLOP is half of one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from channelcut.core.errors import UserError

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_TENSOR_TILES = {"fp32": 4, "fp16": 8, "int8": 16}  # 16 bytes, which is what tensor cores want of every row
_TENSOR_SOURCE = "https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/"


@dataclass(frozen=True)
class Device:
    """What a roofline needs to know of a device.

    rates: peak multiply-accumulates per second by precision, of layers that sum over channels.
    plain: the same of layers that do not (depthwise ones), for which tensor cores are of no use.
    bandwidth: of its memory, in bytes per second.
    tiles: channels come in multiples of this, by precision.
    processors: streaming multiprocessors of a GPU, among which blocks of a layer are dealt in waves; 0: no waves.
    source: where all of this is said.
    """

    name: str
    words: str
    rates: Mapping[str, float]
    plain: float
    bandwidth: float
    tiles: Mapping[str, int]
    processors: int
    source: str

    def tile(self, precision: str) -> int:
        """The multiple of channels below which nothing is won.

        Raises:
            UserError: the device is not described in this precision.
        """
        self.check(precision)
        return self.tiles[precision]

    def check(self, precision: str) -> None:
        """Refuse a precision that the device is not described in."""
        if not isinstance(precision, str) or precision not in self.rates:
            raise UserError(
                f"precision={precision!r} is none that {self.name} is described in: expected one of "
                f"{', '.join(self.rates)}."
            )


def _gpu(  # the columns of a datasheet
    name: str, words: str, tera: tuple[float, float, float], plain: float, giga: float, processors: int, source: str
) -> Device:
    """A GPU from its datasheet: dense tensor TFLOPS (fp32 as TF32 where it has that), plain fp32 TFLOPS, and GB/s."""
    rates = {precision: 0.5e12 * rate for precision, rate in zip(BYTES, tera, strict=True)}
    source = f"{source} ; tiles: {_TENSOR_SOURCE}"
    return Device(name, words, rates, 0.5e12 * plain, 1e9 * giga, _TENSOR_TILES, processors, source)


def _cpu(
    name: str, words: str, each: tuple[int, int, int], cores: int, hertz: float, giga: float, source: str
) -> Device:
    """A CPU: multiply-accumulates of a core in a cycle by precision; kernels block channels by a vector of floats."""
    rates = {precision: cores * hertz * count for precision, count in zip(BYTES, each, strict=True)}
    tiles = dict.fromkeys(BYTES, each[0] // 2)  # two units, each a vector wide
    return Device(name, words, rates, rates["fp32"], 1e9 * giga, tiles, 0, source)


_NVIDIA = "https://www.nvidia.com"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_CYCLES = "https://www.intel.com/content/www/us/en/developer/articles/technical/intel-sdm.html"
_ORIN = f"{_NVIDIA}/content/dam/en-zz/Solutions/gtcf21/jetson-orin/nvidia-jetson-agx-orin-technical-brief.pdf"

_ALL = (
    _cpu(
        "avx2", "CPU with AVX2 (Xeon E5-2680 v4, 14 cores at 2.4 GHz)", (16, 16, 21), 14, 2.4e9, 76.8,
        "https://www.intel.com/content/www/us/en/products/sku/91754/specifications.html ; two 256-bit FMA units, int8 "
        f"as three instructions: {_CYCLES}",
    ),
    _cpu(
        "avx512", "CPU with AVX-512 and VNNI (Xeon Platinum 8380, 40 cores at 2.3 GHz)",
        (32, 32, 128), 40, 2.3e9, 204.8,
        "https://www.intel.com/content/www/us/en/products/sku/212287/specifications.html ; two 512-bit FMA units: "
        f"{_CYCLES}",
    ),
    _gpu(
        "t4", "NVIDIA T4", (8.1, 65, 130), 8.1, 320, 40,
        f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf",
    ),
    _gpu(
        "a10", "NVIDIA A10", (62.5, 125, 250), 31.2, 600, 72,
        f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a10/pdf/a10-datasheet.pdf",
    ),
    _gpu("l4", "NVIDIA L4", (60, 121, 242.5), 30.3, 300, 58, f"{_NVIDIA}/en-us/data-center/l4/"),
    _gpu(
        "a100", "NVIDIA A100 80 GB SXM", (156, 312, 624), 19.5, 2039, 108,
        f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
    ),
    _gpu("h100", "NVIDIA H100 SXM", (494.5, 989.5, 1979), 67, 3350, 132, f"{_NVIDIA}/en-us/data-center/h100/"),
    _gpu("h200", "NVIDIA H200 SXM", (494.5, 989.5, 1979), 67, 4800, 132, f"{_NVIDIA}/en-us/data-center/h200/"),
    _gpu("rtx4090", "NVIDIA GeForce RTX 4090", (82.6, 165.2, 660.6), 82.6, 1008, 128, _ADA),
    _gpu("orin-nano", "NVIDIA Jetson Orin Nano 8 GB at 625 MHz", (1.28, 10, 20), 1.28, 68, 8, _ORIN),
    _gpu("orin-agx", "NVIDIA Jetson AGX Orin 64 GB, its GPU", (5.3, 42.5, 85), 5.3, 204.8, 16, _ORIN),
)  # fmt: skip

DEVICES: dict[str, Device] = {device.name: device for device in _ALL}


def device_named(name: str) -> Device:
    """The description of a device.

    Raises:
        UserError: there is none of this name; names those that there are.

    Example:
        >>> device_named("orin-nano").tile("int8")
        16
    """
    if not isinstance(name, str) or name not in DEVICES:
        known = ", ".join(f"{device.name} ({device.words})" for device in _ALL)
        raise UserError(
            f"{name!r} is no device that is described. Expected one of {known}. Of any other one, measure: "
            "channelcut.measure, or channelcut measure."
        )
    return DEVICES[name]
