"""Models of 16 bits: what a capture holds of them, what its proof explains by rounding, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ghostkv.models.interface import keeps_scores  # noqa: E402
from ghostkv.models.proof import Rounding, prove, recompute  # noqa: E402
from tests.models.test_capture import FAMILIES, POSITIONS, captured, tiny, token_ids  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = 1e-3  # what capture.tolerance is by default
EAGER = ("gemma2",)


def model_of(family, dtype):
    return tiny(family).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [None, 40])
def test_rounding_explains_what_separates_a_capture_from_its_model(family, dtype, chunk):
    for capture, proof in captured(model_of(family, dtype), chunk=chunk):
        assert capture.keys.dtype == np.float16
        assert capture.queries.dtype == capture.outputs.dtype == np.float32
        assert proof["unexplained_relative_error"] < TOLERANCE / 10
        # A tolerance that knows nothing of the type would refuse it.
        assert proof["max_relative_error"] > torch.finfo(dtype).eps / 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_the_file_holds_what_attention_read_exactly(family, dtype):
    model = model_of(family, dtype)
    layers = captured(model)
    cache = transformers.DynamicCache()
    with torch.inference_mode():
        model.set_attn_implementation("sdpa")
        model(torch.as_tensor(token_ids())[None], cache=cache, use_cache=True)
    for capture, proof in layers:
        own = cache.layers[capture.layer]
        for stored, read in ((capture.keys, own.keys[0]), (capture.values, own.values[0])):
            there = torch.from_numpy(stored).to(dtype)
            # Back in the model's type nothing has changed; float16 holds the bfloat16 numbers from 2^-17 on.
            assert torch.equal(there.to(torch.float16), torch.from_numpy(stored))
            large = (
                read.abs() >= 2.0**-17 if dtype == torch.bfloat16 else torch.ones_like(read, dtype=torch.bool)
            )
            assert torch.equal(there[large], read[large])
            assert float((there - read).abs().max()) <= 2.0**-25
        assert proof["storage_relative_error"] < 1e-5


def test_small_numbers_of_bfloat16_are_rounded_before_they_are_read():
    """As they are for float32: attention reads the stored number, and no other."""
    numbers = torch.tensor([3.0, 5.0, 7.0, 129.0]).mul(2.0**-27).to(torch.bfloat16)
    stored = numbers.to(torch.float16)
    assert not torch.equal(stored.float(), numbers.float())
    assert torch.equal(stored.to(torch.bfloat16).float(), stored.float())


def unexplained(capture, dtype, family="mistral", **changes):
    changed = replace(capture, **changes)
    rounding = Rounding.of(dtype, family not in EAGER)
    keys, values = torch.from_numpy(changed.keys), torch.from_numpy(changed.values)
    return prove(changed, keys, values, True, rounding)["unexplained_relative_error"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_proof_in_16_bits_notices_a_wrong_scale_a_wrong_window_and_swapped_heads(dtype):
    capture, _ = captured(model_of("mistral", dtype), np.arange(96))[1]
    assert unexplained(capture, dtype) < TOLERANCE / 10
    for change in (
        {"scale": capture.scale * 1.2},
        {"window": capture.window + 1},
        {"window": capture.window - 1},
        {"window": 0},
        {"keys": capture.keys[::-1].copy()},
        {"values": np.roll(capture.values, 1, axis=1)},
    ):
        assert unexplained(capture, dtype, **change) > 10 * TOLERANCE, change


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("lost", [0, 7, 33, 60, 90])
def test_a_proof_notices_any_key_that_was_not_read(dtype, lost):
    """Every query after it sees one key fewer than the file says."""
    capture, _ = captured(model_of("llama", dtype), np.arange(91, 96))[1]
    assert unexplained(capture, dtype) < TOLERANCE / 10
    fewer = replace(
        capture, keys=np.delete(capture.keys, lost, 1), values=np.delete(capture.values, lost, 1),
        positions=capture.positions - 1,
    )  # fmt: skip
    outputs, _ = recompute(fewer, torch.from_numpy(fewer.keys), torch.from_numpy(fewer.values))
    assert unexplained(capture, dtype, outputs=outputs.to(dtype).float().numpy()) > TOLERANCE


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_on_rounding_holds_of_attention_that_rounds_as_it_says(dtype):
    """Eager attention rounds its scores, SDPA only weights and output: the first needs the wider bound."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(shape, generator=generator).to(dtype).float()
        for shape in ((1, 5, 16), (1, 60, 16), (1, 60, 16))
    )
    capture = captured(model_of("llama", dtype))[0][0]
    made = replace(
        capture, queries=8 * queries.numpy(), keys=keys.half().numpy(), values=values.half().numpy(), outputs=None,
        positions=np.arange(55, 60), scale=0.25,
    )  # fmt: skip
    wide, narrow = (recompute(made, keys, values, Rounding.of(dtype, keeps))[1] for keeps in (False, True))
    true, _ = recompute(made, keys, values)
    scores = ((8 * queries[0]).to(dtype) @ keys[0].to(dtype).T) * 0.25
    hidden = torch.arange(60)[None] > torch.arange(55, 60)[:, None]
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1, dtype=torch.float32).to(dtype)
    error = ((weights @ values[0].to(dtype)).float() - true[0]).norm(dim=-1)
    assert (error <= wide[0]).all()
    assert (error > narrow[0]).any()
    size = true[0].norm(dim=-1)
    assert (narrow[0] >= torch.finfo(dtype).eps / 2 * size).all()


def test_which_attention_keeps_its_scores():
    for family, keeps in (("llama", True), ("gemma2", False)):
        model = tiny(family)
        module = model.model.layers[0].self_attn
        assert keeps_scores(module, getattr(model.config, "attn_logit_softcapping", None)) == keeps


def test_float32_is_explained_by_next_to_nothing():
    for family in ("llama", "gemma2"):
        for _, proof in captured(tiny(family), POSITIONS, cache_dtype="model"):
            assert proof["unexplained_relative_error"] == pytest.approx(
                proof["max_relative_error"], rel=0.02, abs=2e-5
            )
