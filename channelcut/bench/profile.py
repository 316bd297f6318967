"""Where the time goes: ONNX Runtime's profile of both files, layer by layer.

A node of the optimised graph is traced back to the node of the file that it comes from (the runtime derives names from
node or output names), and that to the layer whose weight it reads. What has no weight is summed up by operator.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from channelcut.bench.inputs import inputs_for
from channelcut.engine.onnxruntime import load
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.runtime import onnxruntime, session_from_model

FORMAT = "channelcut-profile-1"
WEIGHTED = {"Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
_FUSED = {"Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Add", "Sum"}
_NOTABLE = 0.01
SUFFIX = "_kernel_time"


def profile_pair(
    original: Path, pruned: Path, *, runs: int = 30, threads: int = 1, multiple: int = 8
) -> dict[str, Any]:
    """Return every layer's time in both files, its arithmetic intensity and width, as JSON values.

    runs: how often each file is run; a layer's time is the median. multiple: what widths should be a multiple of.
    Raises `UserError` for files that cannot be loaded.
    """
    balance = machine_balance(threads)
    # In turns, and twice: the machine's slow spells hit both.
    halves = [layer_times(path, max(1, runs // 2), threads) for path in (original, pruned, pruned, original)]
    return paired(merged(halves[0], halves[3]), merged(halves[1], halves[2]), balance, multiple)


def paired(
    before: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    balance: dict[str, float] | None,
    multiple: int,
) -> dict[str, Any]:
    """Pair the layers of both sides by name and say what became of each, the slowest of the original first.

    `balance`: of the machine, see `machine_balance`; None leaves open what is memory-bound.
    """
    rows = []
    for name, old in before.items():
        new = after.get(name)
        row: dict[str, Any] = {"name": name, "op": old["op"], "before": old, "after": new}
        if new is not None:
            row["saved_us"] = old["us"] - new["us"]
            if balance is not None:
                row["memory_bound"] = bool(new["macs"]) and new["intensity"] < balance["flops_per_byte"]
            row["lost_alignment"] = bool(
                old["width"] and new["width"] and old["width"] % multiple == 0 and new["width"] % multiple
            )
        rows.append(row)
    rows += [{"name": n, "op": r["op"], "before": None, "after": r} for n, r in after.items() if n not in before]
    totals = {side: sum(r["us"] for r in found.values()) for side, found in (("before", before), ("after", after))}
    rows.sort(key=lambda r: -(r["before"] or r["after"])["us"])
    return {"format": FORMAT, "balance": balance, "multiple": multiple, "total_us": totals, "layers": rows}


def slower_layers(found: Mapping[str, Any], most: int = 3) -> list[str]:
    """The layers of a profile that take longer after the cut than before, in words, the worst first.

    Those that take at least a hundredth of the network's time longer: less is noise.
    """
    least = _NOTABLE * found["total_us"]["before"]
    lost = [row for row in found["layers"] if row.get("saved_us", 0.0) < -least]
    texts = []
    for row in sorted(lost, key=lambda row: row["saved_us"])[:most]:
        old, new = row["before"], row["after"]
        widths = f", {old['width']} → {new['width']} channels" if old["width"] and new["width"] else ""
        texts.append(f"{row['name']} ({old['us']:.0f} → {new['us']:.0f} µs{widths})")
    return texts


def machine_balance(threads: int = 1) -> dict[str, float]:
    """Measure what this machine computes and moves: FLOP/s of a float32 product and bytes/s of a negation.

    A layer that does fewer operations per byte than the ratio waits for memory. After Williams, Waterman and Patterson,
    "Roofline", 2009. ONNX Runtime does both, as it runs the layers. The values that are negated are larger than the
    caches, so that layers which stay inside them are judged too harshly.
    """
    generator = np.random.default_rng(0)
    square, line = (generator.random(shape, np.float32) for shape in ((768, 768), (16 * 2**20,)))
    flops = 2 * 768**3 / _fastest(_runner("MatMul", (square, square), threads))
    bandwidth = 2 * line.nbytes / _fastest(_runner("Neg", (line,), threads))
    return {"flops_per_s": flops, "bytes_per_s": bandwidth, "flops_per_byte": flops / bandwidth}


def layer_times(path: Path, runs: int, threads: int = 1) -> dict[str, dict[str, Any]]:
    """Median microseconds, operator, MACs, bytes moved and output width by layer, from ONNX Runtime's profiler."""
    inputs, _ = inputs_for(load(path), 1, seed=0)
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    events = profiled(path, inputs, runs + 3, options)
    names, weights = layers_of(path)
    return layers_from_events(events, names, weights, skip=3)


def profiled(path: Path, inputs: Mapping[str, Any], runs: int, options: Any) -> list[dict[str, Any]]:
    """Run a file and return the events of ONNX Runtime's profiler; `options`: of the session."""
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, inputs)
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def layers_from_events(
    events: list[dict[str, Any]],
    names: Mapping[str, str],
    weights: Mapping[str, tuple[int, ...]] | None = None,
    skip: int = 0,
) -> dict[str, dict[str, Any]]:
    """Sum the profiler's kernel events by layer; `names`: node or output name to layer; `skip`: first runs to leave.

    `weights`: the shape of a layer's weight in the file. The optimised graph pads channels to the vector width, so its
    own shapes would hide a width that does not fit.
    """
    times: dict[str, list[float]] = defaultdict(list)
    facts: dict[str, dict[str, Any]] = {}
    for event in events:
        node = event.get("name", "")
        if event.get("cat") == "Node" and node.endswith(SUFFIX):
            node = node.removesuffix(SUFFIX)
            times[node].append(float(event["dur"]))
            facts[node] = event["args"]
    layers: dict[str, dict[str, Any]] = {}
    for node, taken in times.items():
        arguments = facts[node]
        op = arguments["op_name"]
        layer = _layer_of(node, op, names)
        row = layers.setdefault(layer, {"op": op, "us": 0.0, "macs": 0, "bytes": 0, "width": None})
        row["us"] += statistics.median(taken[skip:] or taken)
        shape = (weights or {}).get(layer)
        row["macs"] += _macs(op, arguments, shape)
        row["bytes"] += sum(int(arguments.get(k, 0)) for k in ("activation_size", "parameter_size", "output_size"))
        if op in WEIGHTED:
            row["width"] = _width(op, _shapes(arguments, "output_type_shape"), shape)
    for row in layers.values():
        row["intensity"] = 2 * row["macs"] / max(row["bytes"], 1)
    return layers


def _layer_of(node: str, op: str, names: Mapping[str, str]) -> str:
    if op in WEIGHTED:
        for name in (node, node.removesuffix("_nchwc"), node.partition("/")[0]):
            if name in names:
                return names[name]
        return node
    return f"all {op}"


def layers_of(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the layer of every node that reads a weight, by the names of node and outputs; and the weights' shapes."""
    graph = load_onnx(path, weights=False).graph
    weights = {w.name: tuple(w.dims) for w in graph.initializer}
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for node in graph.node:
        read = [i for i in node.input[1:] if i in weights]
        if node.op_type in WEIGHTED:
            layer = (read[0].rpartition(".")[0] or read[0]).removeprefix("model.") if read else node.name
            if read and "Conv" in node.op_type:
                shapes[layer] = weights[read[0]]
            names |= dict.fromkeys(filter(None, (node.name, *node.output)), layer)
        elif node.op_type in _FUSED:
            # The runtime names a fused node after what it ends with; a sum is fused into its later operand.
            before = [names[i] for i in node.input if i in names]
            names |= dict.fromkeys(filter(None, node.output), before[-1]) if before else {}
    return names, shapes


def _macs(op: str, arguments: Mapping[str, Any], weight: tuple[int, ...] | None) -> int:
    inputs, outputs = (_shapes(arguments, f"{side}_type_shape") for side in ("input", "output"))
    if op not in WEIGHTED or len(inputs) < 2 or not outputs:
        return 0
    if "Conv" in op:
        # Every output value of a convolution sums over one filter; every input value of a transposed one feeds one.
        if op == "ConvTranspose":
            return int(np.prod(inputs[0]) * np.prod(inputs[1][1:]))
        out, *rest = weight or inputs[1]
        return int(outputs[0][0] * out * np.prod(outputs[0][2:]) * np.prod(rest))
    return int(np.prod(outputs[0]) * inputs[0][-1])


def _width(op: str, outputs: list[list[int]], weight: tuple[int, ...] | None) -> int | None:
    if weight and op != "ConvTranspose":
        return weight[0]
    if not outputs or len(outputs[0]) < 2:
        return None
    return int(outputs[0][1] if "Conv" in op else outputs[0][-1])


def _shapes(arguments: Mapping[str, Any], key: str) -> list[list[int]]:
    return [shape for entry in arguments.get(key, []) for shape in entry.values()]


def merged(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the layers with the mean of both times."""
    return {n: {**r, "us": (r["us"] + other[n]["us"]) / 2 if n in other else r["us"]} for n, r in one.items()}


def _runner(op: str, inputs: Sequence[npt.NDArray[np.float32]], threads: int) -> Callable[[], object]:
    """Runs one operator over inputs of one shape, into memory that is at hand."""
    names = [f"input_{i}" for i in range(len(inputs))]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, inputs[0].shape) for name in names]
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, inputs[0].shape)
    graph = helper.make_graph([helper.make_node(op, names, ["result"])], op, given, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = session_from_model(model, threads)
    binding = session.io_binding()
    for name, values in zip(names, inputs, strict=True):
        binding.bind_cpu_input(name, values)
    place = onnxruntime().OrtValue.ortvalue_from_numpy(np.zeros_like(inputs[0]))
    binding.bind_ortvalue_output("result", place)
    return lambda: session.run_with_iobinding(binding)


def _fastest(work: Any) -> float:
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
