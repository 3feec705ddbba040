"""Kernels on a card: survivors and outputs beside float64, a captured graph over growing lengths, no wait for the host."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install 'ghostkv[gpu]'")
if not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA device here", allow_module_level=True)

from ghostkv.gpu import decode  # noqa: E402
from ghostkv.gpu.emit import flash_attention_3, flashinfer, merge_states, tail_state  # noqa: E402
from ghostkv.gpu.layout import CODE_BYTES  # noqa: E402
from tests.gpu.layers import compared, drawn, on, worst_errors  # noqa: E402

MARGIN = 1e-4
ERROR = {torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("code_bytes", CODE_BYTES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("group", "dim"), [(1, 64), (3, 80), (4, 128), (8, 256)])
def test_survivors_and_outputs_are_those_of_float64(code_bytes, dtype, group, dim):
    host = drawn(code_bytes + group, 3, 2, group, dim, 3000, code_bytes, dtype, softcap=30.0 * (group == 3))
    wanted, layer = host.reference(), on_card(host)
    out, lse = decode.decode(layer.query, layer.keys, layer.values, *layer.state)
    got = compared(layer, wanted, MARGIN)
    assert got["unequal"] == 0
    assert got["close"] <= 0.001 * got["cold"] + 2
    errors = worst_errors(layer, wanted, out, lse)
    assert errors["out"] < ERROR[dtype]
    assert errors["lse"] < 1e-3


def on_card(layer):
    """A copy on the card, with a workspace."""
    from ghostkv.gpu.workspace import DecodeWorkspace

    moved = on(layer, "cuda")
    heads, tokens = layer.query.shape[1], layer.keys.shape[2]
    moved.workspace = DecodeWorkspace.of(moved.frames, moved.records, heads, tokens)
    return moved


def test_infinite_sums_are_taken_again():
    host = drawn(7, 2, 1, 2, 64, 2000, 8, sinks=0, hot=1, theta=-5.0, start=[0, 3], length=[2000, 1500])
    for batch, last in enumerate(host.length.tolist()):
        host.keys[batch, :, last - 1] = -8 * host.query[batch, :1]
    host.query *= 40
    wanted, layer = host.reference(), on_card(host)
    out, lse = decode.decode(layer.query, layer.keys, layer.values, *layer.state)
    assert compared(layer, wanted, 0.05)["unequal"] == 0
    assert worst_errors(layer, wanted, out, lse)["out"] < 5e-3


def test_a_graph_serves_growing_lengths_without_a_wait():
    host = drawn(3, 2, 2, 4, 128, 2100, 16, theta=-8.0, start=[0, 17], length=[1500, 1200])
    layer = on_card(host)
    part = (layer.keys, layer.values, layer.frames, layer.records, layer.rule, layer.start, layer.length)
    decode.write_prompt(*part)

    def step():
        decode.write_records(*part)
        return decode.decode(layer.query, layer.keys, layer.values, *layer.state)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = step()
    for added in (1, 1, 15, 64 + 16):
        # A wait for the device, which a synchronising call would be, is an error here.
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(-(-added // 16)):
                layer.length += min(added, 16)
                graph.replay()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        host.records = on(layer, "cpu").records
        host.length = layer.length.cpu()
        wanted = host.reference()
        assert compared(layer, wanted, MARGIN)["unequal"] == 0
        assert worst_errors(layer, wanted, out, lse)["out"] < ERROR[torch.float16]
        assert (layer.records.written.cpu() == (host.length - host.rule.hot)[:, None]).all()


def test_a_step_waits_for_nothing():
    layer = on_card(drawn(3, 2, 2, 4, 128, 2100, 16))
    decode.decode(layer.query, layer.keys, layer.values, *layer.state)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        decode.decode(layer.query, layer.keys, layer.values, *layer.state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("library", "call"), [("flash_attn_interface", flash_attention_3), ("flashinfer", flashinfer)]
)
def test_other_kernels_read_the_same_survivors(library, call):
    pytest.importorskip(library, reason=f"{library} is not installed")
    host = drawn(11, 2, 2, 4, 128, 2100, 16)
    wanted, layer = host.reference(), on_card(host)
    found = decode.select_survivors(layer.query, layer.keys, *layer.state)
    mine = merge_states(call(layer.query, layer.keys, layer.values, found, layer.rule), tail_state(found, 4))
    assert worst_errors(layer, wanted, mine.out, mine.lse)["out"] < ERROR[torch.float16]
