"""Which of torch's own ops have a rule: every op of the `aten` registry, by what it is.

    python -m benchmarks.aten            # writes benchmarks/results/aten.md

The list is torch's registry itself, so that a new version of torch shows what is missing. An op acts on channels one by
one where torch's own tag says `pointwise`, or where it leaves at least one axis of its input alone; what never stands
in a forward (gradients, optimizers, storage and sparse layouts, kernels of one library) is counted apart.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

import torch

from channelcut.ops.registry import op

RESULTS = Path(__file__).parent / "results"
APART = {
    "gradients": r"backward|_jvp$|_grad$|^retain|^requires_grad|^output_nr|^_version|^is_leaf|_fw_primal|_dual$",
    "optimizers and lists of tensors": r"foreach|^_fused_ad|^_fused_sgd|^_amp|flatten_dense",
    "sparse, nested and quantised layouts": (
        r"sparse|csr|csc|bsr|bsc|coalesce|nested|jagged|indices$|^_?values|^_nnz|to_dense|crow|_dim[IV]$|^dense_dim"
        r"|quantize_per|quantized|dequantize|^q_|qscheme|int_repr|choose_qparams|int4|int8|_int_mm|dyn_quant|spsolve|hspmm"
        r"|_spdiags|sspaddmm|smm$|padded_tensor|rowwise_prune"
    ),
    "kernels of one library or device": (
        r"cudnn|miopen|mkldnn|_mps|mps_|cufft|cuda|xnnpack|nnpack|vulkan|fbgemm|cslt|xla|thnn|slow_conv|_efficient_att"
        r"|_flash_att|_cudnn|triton|philox|scaled_mm|grouped_mm|wrapped|mixed_dtypes|fused_attention_over|_cpu_fallback"
        r"|overrideable|_transformer_enc|native_multi_head|fbgemm|_autocast"
    ),
    "tests and internals of torch": (
        r"^_test|^_foobar|^_print|^_has_|^_debug|^sym_|_sym_|functional_assert|_make_dep|^_propagate|^_assert|_batch_dim$"
        r"|^_add_batch|^_validate|^_linalg_check|^_lazy|^_copy_from|record_stream|^_sobol|_resize_output|_from_tensor$"
        r"|^set_|^set$|^resize|^data$|^from_file|^is_|^can_cast|^get_|^_is_zero|^stride|^size$|^numel|^storage_off|^dim$"
        r"|^_shape_as|^promote|^result_type|^_nnz|_unpack_dual|^_fill_mem|^_dim_arange|^_reshape_from"
    ),
    "losses and metrics": r"_loss|kl_div|^_ctc|nll|binary_cross|hinge|histogram|histc|bincount|cosine_embedding",
    "decompositions and solvers": (
        r"linalg_(?!cross|vector_norm|diagonal|vecdot|matmul)|^_linalg|cholesky|^svd|^qr$|^geqrf|^lu_|^_lu|^orgqr|^ormqr"
        r"|triangular_solve|^det$|logdet|slogdet|inverse|pinverse|matrix_exp|matrix_power|_compute_linear|chain_matmul"
    ),
}


def apart(name: str) -> str | None:
    """What keeps an op out of the forward of a network, if anything does."""
    return next((kind for kind, pattern in APART.items() if re.search(pattern, name)), None)


def overloads(name: str) -> list[torch._ops.OpOverload]:
    """The forms of an op that exist."""
    packet = getattr(torch.ops.aten, name, None)
    return [getattr(packet, form) for form in packet.overloads()] if packet is not None else []


def counted() -> tuple[dict[str, list[str]], dict[str, list[str]], list[str]]:
    """The ops with a rule and without one, by kind, and those that stand apart."""
    registered = torch._C._dispatch_get_all_op_names()
    names = sorted({name.split("::")[1].split(".")[0] for name in registered if name.startswith("aten::")})
    rules: dict[str, list[str]] = defaultdict(list)
    missing: dict[str, list[str]] = defaultdict(list)
    others: list[str] = []
    for name in names:
        forms = overloads(name)
        takes_tensors = any("Tensor" in str(a.type) for form in forms for a in form._schema.arguments)
        pointwise = any(torch.Tag.pointwise in form.tags for form in forms)
        kind = "pointwise" if pointwise else "writes in place" if name.endswith("_") else "all others"
        if op(f"aten.{name}").rule is not None:
            rules[kind].append(name)
        elif not takes_tensors or apart(name):
            others.append(name)
        else:
            missing[kind].append(name)
    return rules, missing, others


def page() -> str:
    """The counts as a table, the ops without a rule by name."""
    rules, missing, others = counted()
    rows = []
    for kind in ("pointwise", "writes in place", "all others"):
        have, lack = len(rules[kind]), len(missing[kind])
        rows.append(f"| {kind} | {have + lack} | {have} | {lack} |")
    have, lack = sum(map(len, rules.values())), sum(map(len, missing.values()))
    rows.append(f"| **together** | **{have + lack}** | **{have}** | **{lack}** |")
    kinds: dict[str, int] = defaultdict(int)
    for name in others:
        kinds[apart(name) or "takes no tensor"] += 1
    parts = [
        "# torch's own ops\n",
        f"Written by `python -m benchmarks.aten` with torch {torch.__version__.split('+')[0]}: every op of torch's "
        f"`aten` registry, {have + lack + len(others)} of them. An op without a rule pins what goes into it.\n",
        "| ops | in all | with a rule | without |\n|---|---|---|---|\n" + "\n".join(rows) + "\n",
        f"Apart stand {len(others)}, which are not for the layers of a forward: "
        + ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
        + ".\n",
    ]
    for kind, names in ((kind, names) for kind, names in missing.items() if names):
        parts.append(f"Without a rule, {kind}: {', '.join(f'`{name}`' for name in names)}.\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    (RESULTS / "aten.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
