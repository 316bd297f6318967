"""What torch would fuse, compile or type by a setting of the process is seen in its parts without touching any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from channelcut.core.graph import specs
from channelcut.core.randomness import OwnRandom
from channelcut.proof.execute import LOW, Execution
from channelcut.tracing import trace
from channelcut.tracing.eager import uncompiled


class Masked(nn.Module):
    """An encoder over sequences of different lengths, which torch would pack into a nested tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(x.shape[1]).expand(len(x), -1) > torch.tensor([[x.shape[1]], [2]])
        return self.encoder(x, src_key_padding_mask=mask)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, [x.shape[1], 2], batch_first=True)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


FUSED: dict[str, Callable[[], nn.Module]] = {
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "encoder with a mask": Masked,
    "lstm": lambda: nn.LSTM(8, 12, batch_first=True),
    "projected lstm": lambda: nn.LSTM(8, 12, proj_size=4, batch_first=True),
    "packed lstm": Packed,
}


@pytest.mark.parametrize("arithmetic", [False, True], ids=["hollow", "arithmetic"])
@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.filterwarnings("ignore:.*oneDNN.*:UserWarning", "ignore:.*enable_nested_tensor.*:UserWarning")
def test_a_fused_layer_is_seen_in_its_parts(name: str, arithmetic: bool) -> None:
    graph = trace(FUSED[name]().eval(), (torch.rand(2, 5, 8),), arithmetic=arithmetic)
    names = {node.name for node in graph.calls}
    assert not [op for op in names if "mkldnn" in op or "nested" in op or "_native_multi" in op or "_fwd" in op]
    assert names & {"aten.addmm", "aten.linear", "channelcut.recurrence", "aten._pack_padded_sequence"}


class Made(nn.Module):
    """Values that a forward makes without naming a type, or of integers."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-1]
        whole = torch.arange(n)
        grid = torch.linspace(0, 1, n) + torch.full((n,), 0.1) + torch.eye(n)[0] + torch.arange(0, 1, 1 / n)[:n]
        grid = grid + torch.zeros(n) + torch.scalar_tensor(0.3) + torch.hann_window(n)
        return x * grid + whole / 7 + whole * 0.1 + (whole + 1).sqrt() + torch.where(whole > 2, 0.25, 0.5)


def test_what_a_forward_makes_is_float64_in_a_proof_whatever_the_default() -> None:
    x = torch.rand(2, 3, 6)
    graph = trace(Made(), (x,))
    run = Execution(graph, {}, ((x,), {}), keep=range(len(graph.nodes)))
    (output,) = run.results()
    types = {value.dtype for value in run.env.values() if isinstance(value, Tensor)}
    assert {spec.dtype for node in graph.nodes for spec in specs(node.value)} & set(LOW), "or this shows nothing"
    assert not types & set(LOW) and torch.get_default_dtype() is torch.float32
    torch.testing.assert_close(output, Made()(x).double(), rtol=0, atol=1e-5)


def test_a_grid_that_names_no_type_is_as_exact_as_the_proof() -> None:
    x = torch.rand(1, 7)
    graph = trace(nn.Sequential(Thirds()), (x,))
    (output,) = Execution(graph, {}, ((x,), {})).results()
    assert torch.equal(output, x.double() + torch.linspace(0, 1, 7, dtype=torch.float64))


class Thirds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.linspace(0, 1, x.shape[-1])


def test_random_numbers_come_from_generators_of_our_own() -> None:
    """The same ones every time, and torch's generator stays where it is."""
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with OwnRandom():
            x = torch.rand(3, 4)
            drawn.append([x, nn.functional.dropout(x), torch.randn_like(x), torch.randint(9, (5,)), x.normal_()])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_the_users_is_used() -> None:
    generator = torch.Generator().manual_seed(3)
    with OwnRandom():
        drawn = torch.rand(4, generator=generator)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_compiled_functions_run_eagerly_in_one_thread_and_are_compiled_in_the_others() -> None:
    from tests.test_threads import in_threads

    ran: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        return lambda *args: ran.append(1) or graph(*args)

    function = torch.compile(lambda x: x.sin() + 1, backend=backend)
    x = torch.rand(4)
    function(x)
    stance = torch._dynamo.eval_frame._stance
    assert ran, "or this shows nothing"
    ran.clear()
    with uncompiled(), uncompiled():
        function(x)
        function(torch.rand(2, 3))
        assert not ran
        in_threads(lambda: function(x), 1)
        assert ran
    ran.clear()
    function(x)
    assert ran and torch._dynamo.eval_frame._stance is stance


def test_an_analysis_leaves_what_is_compiled_compiled() -> None:
    """torch's compiler gives up for ever on a function that it meets in a mode."""
    ran: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        return lambda *args: ran.append(1) or graph(*args)

    function = torch.compile(lambda x: x.relu() + 1, backend=backend)

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.a(x))

    x = torch.rand(1, 3, 32, 32)
    graph = trace(Compiled(), (x,))
    assert [node.name for node in graph.calls] == ["aten.convolution", "aten.relu", "aten.add"] and not ran
    Compiled()(x)
    assert ran
