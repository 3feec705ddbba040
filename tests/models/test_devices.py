"""Where a model runs: devices by name, and captures that are the same wherever and in whatever pieces they are made."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ghostkv.files.errors import ConfigError, ModelError  # noqa: E402
from ghostkv.models.devices import device_of  # noqa: E402
from ghostkv.models.interface import ordinary_attention  # noqa: E402
from ghostkv.models.overhead import time_pairs  # noqa: E402
from ghostkv.runtime.answering import Reader  # noqa: E402
from ghostkv.runtime.continuation import Continuation  # noqa: E402
from ghostkv.runtime.measure import check_identity, measure_identity  # noqa: E402
from ghostkv.runtime.policy import Policy, identity_policy  # noqa: E402
from ghostkv.runtime.step_times import time_steps  # noqa: E402
from tests.models.test_capture import FAMILIES, POSITIONS, captured, token_ids  # noqa: E402
from tests.models.test_capture import tiny as to_capture  # noqa: E402
from tests.runtime.ghost_fixtures import CONTEXT, LAYERS, ghostly, text, tiny  # noqa: E402

WITHOUT_CUDA = "torch finds no CUDA device on this machine"
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=WITHOUT_CUDA))
DEVICES = ["cpu", CUDA]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_names_of_devices(two_gpus):
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto") == device_of("cuda") == torch.device("cuda:0")
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(
        ConfigError, match=r"model.device is cuda:2.*cpu, cuda:0 \(card 0\), cuda:1 \(card 1\)"
    ):
        device_of("cuda:2")


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_is_refused(no_gpu):
    assert device_of("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(
            ConfigError, match=rf"model.device is {name}.*Accepted: auto, cpu \(torch"
        ) as error:
            device_of(name)
        assert "Write: device: cpu" in str(error.value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("chunk", [None, 31])
def test_a_capture_on_a_device_is_that_of_the_cpu(family, device, chunk):
    model = to_capture(family)
    here = captured(model)
    for (one, _), (other, proof) in zip(here, captured(model.to(device), chunk=chunk), strict=True):
        assert proof["unexplained_relative_error"] < 2e-5
        for name in ("keys", "values", "queries", "outputs"):
            found = getattr(other, name)
            assert isinstance(found, np.ndarray)
            np.testing.assert_allclose(found, getattr(one, name), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_on_a_device_decodes_by_decisions_of_the_cpu(device):
    model, ids = tiny(), text()[0].tolist()
    own = Continuation(model, ids, CONTEXT).own()
    model = tiny().to(device)
    found = measure_identity(model, ids)
    check_identity(found, model)
    assert found["attention_difference"] < 1e-4
    begun = Continuation(model, ids, CONTEXT)
    decoded = begun.decode(identity_policy(model.config))
    np.testing.assert_allclose(decoded.logits, own, atol=1e-3)
    assert begun.generate(identity_policy(model.config), 6)[0] == begun.generate(begun.dense, 6)[0]
    dense = Policy("full", {}, dense_layers=tuple(range(LAYERS)))
    reader = Reader(ghostly(model), dense, [])
    reader.read(ids[:CONTEXT])
    said = [
        reader.answer(ids[CONTEXT:], [], 5, policy).tokens for policy in (None, identity_policy(model.config))
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_the_overhead_of_a_capture_is_timed_on_a_device_and_in_chunks(device, tmp_path):
    model = to_capture("llama").to(device)
    rows = time_pairs(model, token_ids(), POSITIONS, 2, tmp_path, chunk=40)
    assert len(rows) == 2
    assert all(row["capture_seconds"] > 0 and row["plain_seconds"] > 0 for row in rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason=WITHOUT_CUDA)
def test_a_step_on_a_device_is_not_timed_beside_one_of_the_cpu():
    model = tiny().to("cuda")
    with pytest.raises(ModelError, match="time_steps: the model is on cuda"):
        list(time_steps(model, text()[0].tolist(), [100], identity_policy(model.config)))


def fed(model, **options) -> list[int]:
    """Tokens that the first layer is handed at once while a capture is made."""
    seen = []
    layer = next(one for one in model.modules() if isinstance(one, torch.nn.ModuleList))[0]

    def note(module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    captured(model)  # what the probe reads is read before
    with layer.register_forward_pre_hook(note, with_kwargs=True):
        captured(model, **options)
    return seen


@pytest.mark.parametrize(
    ("chunk", "parts"), [(None, [96]), (96, [96]), (500, [96]), (40, [40, 40, 16]), (1, [1] * 96)]
)
def test_a_text_is_read_in_chunks(chunk, parts):
    assert fed(to_capture("llama"), chunk=chunk) == parts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 17, 64])
def test_chunks_give_the_captures_of_the_whole(family, chunk):
    """Windows of 24 tokens lie within a chunk, across two, and across many."""
    model = to_capture(family)
    for (whole, _), (parted, proof) in zip(captured(model), captured(model, chunk=chunk), strict=True):
        assert proof["max_relative_error"] < 2e-5
        assert (whole.window, whole.softcap, whole.scale) == (parted.window, parted.softcap, parted.scale)
        np.testing.assert_array_equal(whole.positions, parted.positions)
        for name in ("keys", "values", "queries", "outputs"):
            np.testing.assert_allclose(getattr(parted, name), getattr(whole, name), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "qwen2_sliding"])
@pytest.mark.parametrize("chunk", [1, 17, 64])
def test_a_sliding_window_in_chunks_is_that_of_the_whole(family, chunk):
    """Without float16 on the way, which turns a last bit into a thousandth."""
    model = to_capture(family)
    whole, parted = (captured(model, cache_dtype="model", chunk=one) for one in (None, chunk))
    for (one, _), (other, _) in zip(whole, parted, strict=True):
        size = np.abs(one.outputs).max()
        assert np.abs(other.outputs - one.outputs).max() < 1e-5 * size
        assert np.abs(other.queries - one.queries).max() < 1e-5 * np.abs(one.queries).max()


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
@pytest.mark.parametrize("layers", [None, [1]])
def test_a_chunk_costs_a_sliding_layer_its_window_alone(monkeypatch, family, layers):
    """Whether the layer is recorded or not."""
    model, handed = to_capture(family), {}

    def counted(module, query, key, *rest, **kwargs):
        handed.setdefault(module.layer_idx, []).append(key.shape[2])
        return ordinary_attention(module, query, key, *rest, **kwargs)

    captured(model)  # what the probe reads is read before
    monkeypatch.setattr("ghostkv.models.capture.ordinary_attention", counted)
    captured(model, layers=layers, chunk=20)
    windows = {"mistral": [24, 24, 24], "gemma3": [24, 0, 24]}[family]
    sliding, whole = [20, 40, 43, 43, 39], [20, 40, 60, 80, 96]
    assert handed == {layer: sliding if window else whole for layer, window in enumerate(windows)}


def test_layers_come_one_by_one_and_in_order_from_chunks_too():
    assert [capture.layer for capture, _ in captured(to_capture("llama"), chunk=10, layers=[2, 0])] == [0, 2]


def test_a_chunk_without_a_sampled_query_is_no_matter():
    (capture, proof), *_ = captured(to_capture("llama"), np.array([90, 95]), chunk=20)
    assert capture.positions.tolist() == [90, 95]
    assert proof["max_relative_error"] < 2e-5


FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize("trained", [64, 96])
def test_a_rotation_that_depends_on_the_length_is_not_read_in_chunks(kind, trained):
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        more = {"rope_parameters": rope | FACTORS, "original_max_position_embeddings": trained}
    else:
        more = {"rope_parameters": rope, "max_position_embeddings": trained}
    model = to_capture("phi3" if kind == "longrope" else "llama", **more)
    whole = captured(model)
    if trained == 64:
        with pytest.raises(ConfigError, match=f"capture.chunk: .*rope_type: {kind}.* beyond 64 tokens"):
            captured(model, chunk=48)
        return
    # Within the length that it was trained for it rotates the same in pieces.
    for (one, _), (other, _) in zip(whole, captured(model, chunk=48), strict=True):
        np.testing.assert_allclose(other.keys, one.keys, rtol=2e-3, atol=2e-3)
