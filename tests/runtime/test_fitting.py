"""Three lines of Python: a policy fitted to a model at hand, in its seat and out of it again, kept in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ghostkv
from ghostkv.files.errors import CaptureError, ConfigError, ModelError, TableError, TextError
from ghostkv.files.tensors import load_tensors, save_tensors
from ghostkv.models.tokenizer import ModelTokenizer, byte_tokenizer
from ghostkv.runtime.certified import CertifiedMass
from ghostkv.runtime.ghost_decider import PackedDecider  # noqa: E402
from ghostkv.runtime.policy import identity_policy
from tests.runtime.ghost_fixtures import tiny

TOKENS = 384
CONFIG = {"frontier": {"hot": 16, "top_k": 8}, "certificates": {"probes": 8}}


def text(seed: int, length: int = TOKENS + 50) -> str:
    letters = np.random.default_rng(seed).integers(97, 123, length)
    return "".join(map(chr, letters))


@pytest.fixture(scope="module")
def model():
    return tiny(vocab_size=300, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def tokenizer():
    return ModelTokenizer(Path("."), byte_tokenizer())


@pytest.fixture(scope="module")
def policy(model, tokenizer):
    return ghostkv.fit(model, tokenizer, [text(0), text(1)], bytes_ratio=0.5, tokens=TOKENS, config=CONFIG)


def ids(seed: int = 5, tokens: int = 300) -> torch.Tensor:
    return torch.tensor([ModelTokenizer(Path("."), byte_tokenizer()).encode(text(seed, tokens))])


def generated(model, **options) -> list[int]:
    return model.generate(ids(), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[
        0
    ].tolist()


def test_the_ratio_that_is_asked_for_is_what_is_read(model, policy):
    with ghostkv.elimination(model, policy) as traffic, torch.inference_mode():
        cache = model(ids(6, TOKENS)[:, : TOKENS // 2], use_cache=True).past_key_values
        model(ids(6, TOKENS)[:, TOKENS // 2 :], past_key_values=cache)
    read = traffic.summary()
    assert read["bytes_ratio_gqa"] == pytest.approx(0.5, abs=0.05)
    assert read["queries"] == 2 * (TOKENS // 2)
    assert repr(read).startswith(f"Read: {read['bytes_ratio_gqa']:.1%} of the bytes")


def test_afterwards_the_model_is_what_it_was(model, policy):
    before, own = generated(model), model.config._attn_implementation
    with ghostkv.elimination(model, policy) as traffic:
        during = generated(model)
    assert traffic.summary()["queries"] > 0
    assert generated(model) == before
    assert model.config._attn_implementation == own
    assert "generate" not in vars(model)
    assert not any("_ghostkv_seat" in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError), ghostkv.elimination(model, policy):
        raise RuntimeError
    assert model.config._attn_implementation == own
    assert len(during) == len(before)


def test_a_policy_that_eliminates_nothing_says_what_the_model_says(model):
    with ghostkv.elimination(model, identity_policy(model.config)):
        assert generated(model) == generated(model)
        said = generated(model)
    assert said == generated(model)


# Records that are read packed.
FIELDS = CONFIG | {
    "sketch": {"codecs": [{"name": "field_code", "bits": [2.0]}]},
    "frontier": CONFIG["frontier"] | {"headline": {"codec": "field_code", "bits": 2.0}},
}


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        ({"bytes_ratio": 0.5}, CONFIG),
        ({"bytes_ratio": 0.7}, FIELDS),
        ({"certificate": 0.05}, CONFIG),
        ({"target_fer": 0.05}, CONFIG),
    ],
)
def test_a_saved_policy_decides_the_same(model, tokenizer, tmp_path, asked, config):
    fitted = ghostkv.fit(model, tokenizer, [text(0), text(1)], tokens=TOKENS, config=config, **asked)
    assert (type(fitted.deciders[0]) is PackedDecider) == (config is FIELDS)
    fitted.save(tmp_path / "policy.safetensors")
    # Under any name, anywhere.
    moved = (tmp_path / "policy.safetensors").rename(tmp_path / "mine.bin")
    loaded = ghostkv.load(moved)
    found = []
    for one in (fitted, loaded):
        with ghostkv.elimination(model, one) as traffic, torch.inference_mode():
            cache = model(ids(7)[:, :200], use_cache=True).past_key_values
            found.append((model(ids(7)[:, 200:], past_key_values=cache).logits, traffic.queries()))
    (one, read), (other, same) = found
    assert torch.equal(one, other)
    assert read.equals(same)
    assert [*map(type, loaded.deciders.values())] == [*map(type, fitted.deciders.values())]
    assert loaded.certificate == fitted.certificate
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert again.read_bytes() == moved.read_bytes()


def decoded(model, policy):
    with ghostkv.elimination(model, policy) as traffic, torch.inference_mode():
        cache = model(ids(7)[:, :200], use_cache=True).past_key_values
        return model(ids(7)[:, 200:], past_key_values=cache).logits, traffic


@pytest.mark.parametrize("asked", [{"bytes_ratio": 0.5}, {"certificate": 0.05}])
def test_heads_that_stay_dense_are_kept_in_the_file(model, tokenizer, tmp_path, asked):
    fitted = ghostkv.fit(model, tokenizer, [text(0), text(1)], tokens=TOKENS, config=CONFIG, **asked)
    assert not fitted.dense_heads
    partly = fitted.leaving_dense({0: [1]})
    partly.save(tmp_path / "policy.safetensors")
    loaded = ghostkv.load(tmp_path / "policy.safetensors")
    assert loaded.dense_heads == partly.dense_heads == {0: (1,)}
    (one, read), (other, same) = decoded(model, partly), decoded(model, loaded)
    assert torch.equal(one, other)
    assert read.queries().equals(same.queries())
    assert read.summary()["dense"] == 0.25
    assert read.layers()["dense"].to_list() == [read.layers()["full"][0] / 2, 0.0]
    # No record of that head is in the file, and none of a layer that is dense as a whole.
    whole, small, smaller = (tmp_path / f"{name}.safetensors" for name in ("whole", "policy", "layer"))
    fitted.save(whole)
    fitted.leaving_dense({0: [0, 1]}).save(smaller)
    assert whole.stat().st_size > small.stat().st_size > smaller.stat().st_size
    assert ghostkv.load(smaller).dense_layers == (0,)


def test_where_nothing_may_be_left_out_all_is_read(model, tokenizer, tmp_path):
    """A certificate so strict that every key must be read reads all of them, as the model does."""
    options = {"tokens": TOKENS, "config": CONFIG, "certificate": 1e-12}
    ghostkv.fit(model, tokenizer, [text(0), text(1)], **options).save(tmp_path / "policy.safetensors")
    policy = ghostkv.load(tmp_path / "policy.safetensors")
    # K is stored as its record, so that reading all of it costs what K costs; a key without a bound is read in fp16 beside it.
    assert policy.dense_layers == ()
    logits, traffic = decoded(model, policy)
    assert traffic.summary()["bytes_ratio_gqa"] == pytest.approx(1.0, abs=0.05)
    with torch.inference_mode():
        # K is known to the last plane of its record, which is as fine as fp16.
        assert (logits - model(ids(7)).logits[:, 200:]).abs().max() < 5e-3
    with ghostkv.elimination(model, policy):
        said = generated(model)
    assert said == generated(model)


@pytest.mark.parametrize("dense", [[], [2], [-1], [0, 1], [1, 0], [0.5], ["0"], None, 1])
def test_a_file_whose_dense_heads_are_none_of_the_layers_is_refused(policy, tmp_path, dense):
    path = tmp_path / "policy.safetensors"
    policy.leaving_dense({0: [1]}).save(path)
    tensors = load_tensors(path, "ghostkv policy")
    about = json.loads(bytes(tensors["policy"]))
    about["deciders"]["0"]["dense"] = dense
    tensors["policy"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    save_tensors(tensors, path, {}, "ghostkv policy")
    if dense in ([0, 1],):
        # Two dense heads beside the decided one: right in itself, and not of this model.
        with (
            pytest.raises(ConfigError, match="layer 0"),
            ghostkv.elimination(tiny(vocab_size=300), ghostkv.load(path)),
        ):
            pass
    else:
        with pytest.raises(TableError, match="another version"):
            ghostkv.load(path)


def test_a_certificate_holds_for_every_query(model, tokenizer):
    fitted = ghostkv.fit(model, tokenizer, [text(0), text(1)], tokens=TOKENS, config=CONFIG, certificate=0.05)
    assert all(isinstance(one, CertifiedMass) for one in fitted.deciders.values())
    with ghostkv.elimination(model, fitted) as traffic, torch.inference_mode():
        cache = model(ids(8)[:, :200], use_cache=True).past_key_values
        model(ids(8)[:, 200:], past_key_values=cache)
    read = traffic.summary()
    assert 0 < read["certified"] <= 0.05
    assert read["violated"] == 0
    assert "0 violations" in repr(read)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("asked", [{"bytes_ratio": 0.5}, {"certificate": 0.05}])
def test_a_model_of_16_bits_is_fitted_and_decodes(tokenizer, dtype, asked):
    model = tiny(vocab_size=300, max_position_embeddings=1024).to(dtype)
    fitted = ghostkv.fit(model, tokenizer, [text(0), text(1)], tokens=TOKENS, config=CONFIG, **asked)
    with ghostkv.elimination(model, fitted) as traffic, torch.inference_mode():
        cache = model(ids(6, TOKENS)[:, : TOKENS // 2], use_cache=True).past_key_values
        logits = model(ids(6, TOKENS)[:, TOKENS // 2 :], past_key_values=cache).logits
        read = traffic.summary()
        assert len(generated(model)) == len(ids()[0]) + 12
    assert logits.dtype == dtype
    assert torch.isfinite(logits).all()
    if "bytes_ratio" in asked:
        assert read["bytes_ratio_gqa"] == pytest.approx(0.5, abs=0.06)
    else:
        assert 0 < read["certified"] <= 0.05
        assert read["violated"] == 0


def test_a_target_that_no_number_of_queries_can_promise_is_refused(model, tokenizer):
    with pytest.raises(ConfigError, match=r"target_fer=0\.0001"):
        ghostkv.fit(model, tokenizer, [text(0), text(1)], tokens=TOKENS, config=CONFIG, target_fer=0.0001)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([text(0), text(1)], {}, "nothing is asked for"),
        ([text(0), text(1)], {"bytes_ratio": 0.3, "certificate": 0.1}, "bytes_ratio=0.3, certificate=0.1"),
        ([text(0), text(1)], {"bytes_ratio": 25}, "bytes_ratio=25"),
        ([text(0)], {"bytes_ratio": 0.3}, "texts are given for codec"),
        ({"codec": [text(0)], "held_out": [text(1)]}, {"bytes_ratio": 0.3}, "codec, held_out"),
        ([text(0), text(1, 80)], {"bytes_ratio": 0.3}, "threshold_0 has 80 tokens"),
        ([text(0), text(1)], {"bytes_ratio": 0.3, "tokens": 900}, "tokens=4"),
        ([text(0), text(1)], {"bytes_ratio": "0.3"}, "bytes_ratio=0.3"),
        ([text(0), text(1)], {"bytes_ratio": 0.3, "tokens": "384"}, "tokens='384'"),
        ([text(0), text(1)], {"bytes_ratio": 0.3, "tokens": 0}, "tokens=0"),
        ([text(0), text(1)], {"bytes_ratio": 0.3, "config": "frontier"}, "config is of type str"),
        (text(0), {"bytes_ratio": 0.3}, "no role"),
        (None, {"bytes_ratio": 0.3}, "no role"),
        ([1, 2], {"bytes_ratio": 0.3}, "of type int"),
        ([b"a", b"b"], {"bytes_ratio": 0.3}, "of type bytes"),
        ({"codec": {"a": text(0)}, "threshold": {"a": text(1)}}, {"bytes_ratio": 0.3}, "named twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_with_what_to_write(model, tokenizer, texts, options, message):
    with pytest.raises((ConfigError, TextError), match=message):
        ghostkv.fit(model, tokenizer, texts, **options)


@pytest.mark.parametrize("verb", ["fit", "elimination"])
def test_what_is_no_model_is_refused_and_a_compiled_one_too(model, tokenizer, policy, verb):
    def asked(given):
        if verb == "fit":
            ghostkv.fit(given, tokenizer, [text(0), text(1)], bytes_ratio=0.5)
        else:
            with ghostkv.elimination(given, policy):
                pass

    for given, says in (("gpt2", "of type str"), (None, "NoneType"), (tokenizer, "ModelTokenizer")):
        with pytest.raises(ModelError, match=says):
            asked(given)
    in_place = tiny(vocab_size=300, max_position_embeddings=1024)
    in_place.compile(backend="eager")
    for given in (torch.compile(model, backend="eager"), in_place):
        with pytest.raises(ModelError, match="is compiled"):
            asked(given)


def test_what_is_no_policy_leaves_the_model_as_it_was(model):
    own = model.config._attn_implementation
    for given in (None, "policy.safetensors", {}):
        with (
            pytest.raises(ConfigError, match="elimination: the policy is of type"),
            ghostkv.elimination(model, given),
        ):
            pass
    assert model.config._attn_implementation == own


def test_a_model_takes_one_policy_at_a_time(model, policy):
    with ghostkv.elimination(model, policy) as outer:
        with pytest.raises(ModelError, match="already"), ghostkv.elimination(model, policy):
            pass
        generated(model)
    assert outer.summary()["queries"] > 0
    with ghostkv.elimination(model, policy) as again:
        generated(model)
    assert again.summary()["queries"] == outer.summary()["queries"]


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_of_other_layers_is_refused_and_left_as_it_was(policy, layers):
    other = tiny(vocab_size=300, max_position_embeddings=1024, num_hidden_layers=layers)
    own, before = other.config._attn_implementation, generated(other)
    with pytest.raises(ConfigError, match=r"layers \["), ghostkv.elimination(other, policy):
        pass
    assert other.config._attn_implementation == own
    assert generated(other) == before


def test_names_of_texts_are_no_paths(model, tokenizer, policy, tmp_path):
    texts = {"codec": {"../../codec_0": text(0)}, "threshold": {"a/b": text(1)}}
    named = ghostkv.fit(model, tokenizer, texts, bytes_ratio=0.5, tokens=TOKENS, config=CONFIG)
    assert named.deciders.keys() == policy.deciders.keys()


@pytest.mark.parametrize("given", [None, 3, ".", b"policy"])
def test_what_is_no_path_is_refused(policy, given):
    for verb in (policy.save, ghostkv.load):
        with pytest.raises(ConfigError, match="is no path of a file"):
            verb(given)


def test_a_file_named_by_mistake_is_not_to_be_removed(tmp_path):
    """Such as the weights of the model."""
    for content in (b"", b"text", b"ghostkv-sha256:" + 64 * b"0"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(TableError) as refused:
            ghostkv.load(tmp_path / "model.safetensors")
        assert "rm " not in str(refused.value)


def test_a_policy_of_another_version_is_refused(tmp_path):
    about = {"deciders": {"0": {"kind": "certified_mass", "levels": [2]}}, "dense_layers": []}
    tensors = {"policy": np.frombuffer(json.dumps(about).encode(), np.uint8), "0/0/mean_": np.zeros(4)}
    save_tensors(tensors, tmp_path / "policy.safetensors", {}, "ghostkv policy")
    with pytest.raises(TableError, match="another version"):
        ghostkv.load(tmp_path / "policy.safetensors")


def test_arrays_of_any_library_and_no_others_have_a_frontier():
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(4, 100, 16)).astype(np.float32), rng.normal(size=(2, 256, 16))
    wanted, _ = ghostkv.frontier(queries, keys.astype(np.float16), config=CONFIG)
    tensors = torch.tensor(queries, requires_grad=True), torch.tensor(keys.astype(np.float16))
    assert ghostkv.frontier(*tensors, config=CONFIG)[0].equals(wanted)
    ghostkv.frontier(*(tensor.bfloat16() for tensor in tensors), config=CONFIG)
    for given in ("keys", queries * 1j, torch.tensor(queries) * 1j, queries[:, :0], [[1], [1, 2]]):
        with pytest.raises(CaptureError):
            ghostkv.frontier(given, keys, config=CONFIG)


def test_a_damaged_policy_file_is_refused(policy, tmp_path):
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"policy\.safetensors"):
        ghostkv.load(path)


def test_the_frontier_of_arrays_is_a_frame_and_a_chart():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(2, 512, 16)) * np.linspace(2, 0.1, 16)
    queries, values = rng.normal(size=(4, 200, 16)), rng.normal(size=(2, 512, 16))
    table, chart = ghostkv.frontier(queries, keys, values, config=CONFIG)
    assert set(table["codec"]) == {"exact", "transform_code"}
    assert table["head"].n_unique() == 4
    # Of the last 200 tokens every other one is measured.
    assert table["queries"].unique().to_list() == [100]
    lines = table.sort("theta").group_by("codec", "head", maintain_order=True)
    assert all(line["elimination"].is_sorted() and line["fer"].is_sorted() for _, line in lines)
    lossless = (
        table.filter(table["fer"] == 0).group_by("codec").agg(best="elimination").to_dict(as_series=False)
    )
    best = {name: max(found) for name, found in zip(lossless["codec"], lossless["best"], strict=True)}
    assert best["exact"] >= best["transform_code"] > 0
    drawn = json.loads(chart.to_json())
    assert drawn["mark"]["type"] == "line"
