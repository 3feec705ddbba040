"""A model of 16 bits under elimination: decided in float32, and checked there, where rounding hides nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ghostkv.files.errors import ModelError  # noqa: E402
from ghostkv.runtime.continuation import Continuation  # noqa: E402
from ghostkv.runtime.measure import ATTENTION, check_identity, measure_identity  # noqa: E402
from ghostkv.runtime.policy import identity_policy  # noqa: E402
from ghostkv.runtime.seat import Seat  # noqa: E402
from tests.runtime.ghost_fixtures import CONTEXT, text, tiny  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def lost(monkeypatch):
    """Seats that never see one key."""

    def lose(key: int) -> None:
        call = Seat._call

        def fewer(self, *args):
            whole = call(self, *args)
            keys, values = (np.delete(one, key, axis=2) for one in (whole.keys, whole.values))
            return replace(whole, keys=keys, values=values, past=whole.past - 1)

        monkeypatch.setattr(Seat, "_call", fewer)

    return lose


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:layers with a sliding window")
def test_with_nothing_eliminated_a_model_of_any_type_is_itself(family, dtype):
    model = tiny(family).to(dtype)
    found = measure_identity(model, text()[0].tolist())
    check_identity(found, model)
    # The check is as sharp in 16 bits as in 32.
    assert found["attention_difference"] < 2e-5
    assert (found["attention_difference"] > 0) == (family != "mistral")  # all of whose layers have a window


@pytest.mark.parametrize("key", [0, 1, 40, 100, 119])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_key_that_is_never_read_is_noticed_in_any_type(lost, dtype, key):
    model = tiny().to(dtype)
    lost(key)
    found = measure_identity(model, text()[0].tolist())
    assert found["attention_difference"] > 10 * ATTENTION
    with pytest.raises(ModelError, match="attention_difference"):
        check_identity(found, model)


def test_logits_of_bfloat16_alone_do_not_tell_every_key(lost):
    """What the bound on logits lets through, which is why attention is compared too."""
    model = tiny().to(torch.bfloat16)
    lost(57)
    found = measure_identity(model, text()[0].tolist())
    assert (
        max(found[f"{way}_difference"] for way in ("prefill", "block", "step", "own")) < 0.7 * found["bound"]
    )
    assert found["attention_difference"] > 100 * ATTENTION


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_continuation_of_16_bits_reads_what_one_of_32_reads(dtype):
    model, ids = tiny().to(dtype), text()[0].tolist()
    begun = Continuation(model, ids, CONTEXT)
    decoded, own = begun.decode(identity_policy(model.config)), begun.own()
    assert decoded.logits.dtype == own.dtype == np.float32
    size = np.abs(own).max()
    assert np.abs(decoded.logits - own).max() <= 16 * torch.finfo(dtype).eps * size
    summary = decoded.traffic.summary()
    assert summary["elimination"] == 0
    assert begun.generate(identity_policy(model.config), 4)[0]
