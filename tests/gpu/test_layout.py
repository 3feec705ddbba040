"""Fields, tables and errors of records in device memory, and the room without triton."""

import sys

import numpy as np
import pytest
import torch

from ghostkv.codecs.field_code import FieldCode, row_widths
from ghostkv.codecs.transform_code import TransformCode
from ghostkv.files.errors import ConfigError
from ghostkv.gpu import decode, launches
from ghostkv.gpu.configs import ARCHITECTURES, INTERPRETER, config_of
from ghostkv.gpu.emit import flash_attention_3, flashinfer
from ghostkv.gpu.errors import DeviceError
from ghostkv.gpu.layout import (
    CODE_BYTES,
    DeviceFrames,
    DeviceRecords,
    pack_fields,
    part_places,
    unpack_fields,
)
from tests.gpu.layers import drawn, fitted


@pytest.mark.parametrize("code_bytes", CODE_BYTES[1:])
def test_fields_are_those_of_the_codec(code_bytes):
    rng = np.random.default_rng(code_bytes)
    _, _, codec = fitted(64, code_bytes, 0)
    widths = row_widths(codec.quantiser_.bits)
    keys = rng.normal(size=(50, 64))
    codes = torch.from_numpy(codec.encode(keys).code)
    levels = unpack_fields(codes, widths)
    dims = len(codec.quantiser_.bits)
    assert levels[:, :dims].tolist() == codec.quantiser_.unpack(codes.numpy()).tolist()
    assert pack_fields(levels, widths).tolist() == codes[:, : 4 * len(widths)].tolist()


def test_fields_of_every_width_come_back():
    widths = [8, 4, 4, 2]
    levels = torch.cat([torch.randint(0, 1 << width, (3, 5, 32 // width)) for width in widths], -1).byte()
    codes = pack_fields(levels, widths)
    assert codes.shape == (3, 5, 16)
    assert torch.equal(unpack_fields(codes, widths), levels)
    with pytest.raises(ConfigError):
        pack_fields(levels[..., 1:], widths)


@pytest.mark.parametrize("code_bytes", CODE_BYTES)
def test_terms_give_the_codec_s_estimate(code_bytes):
    """Parts of bytes times weights in their places, summed in numpy, are what fields times weights are."""
    rng = np.random.default_rng(code_bytes)
    _, _, codec = fitted(64, code_bytes, 0)
    frames = DeviceFrames.of([codec])
    query, keys = rng.normal(size=64), rng.normal(size=(20, 64))
    records = codec.encode(keys)
    byte, part = part_places(code_bytes, frames.parts)
    assert len(set(zip(byte.tolist(), part.tolist(), strict=True))) == code_bytes * frames.parts
    width = 8 // frames.parts
    masked = records.code[:, byte] & (((1 << width) - 1) << (part * width))
    weights = frames.decoder[0].double().numpy() @ query
    middles = (weights * frames.middle[0].numpy()).sum()
    mine = masked @ (weights * frames.place[0].numpy()) - middles + frames.offset[0].double().numpy() @ query
    want = codec.estimate(codec.project(query[None]), codec.decode(records), 1.0)[0]
    assert np.abs(mine - want).max() < 1e-4 * np.abs(want).max()


def test_codes_that_kernels_do_not_take_are_refused():
    rng = np.random.default_rng(5)
    keys, asked = rng.normal(size=(500, 64)), rng.normal(size=(100, 64))
    with pytest.raises(ConfigError):
        DeviceFrames.of([FieldCode(12).fit(keys, asked)])
    with pytest.raises(ConfigError):
        DeviceFrames.of([TransformCode(8).fit(keys, asked)])


def test_without_triton_a_step_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    layer = drawn(0, 1, 1, 1, 64, 80, 8)
    with pytest.raises(DeviceError, match="ghostkv\\[gpu\\]"):
        decode.decode(layer.query, layer.keys, layer.values, *layer.state)


def test_caches_and_heads_that_kernels_do_not_take_are_refused():
    keys = torch.zeros(1, 2, 64, 64, dtype=torch.float16)
    for heads, cache in (
        (3, keys),
        (18, keys),
        (2, keys.float()),
        (2, keys.mT),
        (2, keys[..., :60].contiguous()),
    ):
        with pytest.raises(ConfigError):
            launches.Step.of(heads, cache, 16)


def test_every_architecture_has_a_line_for_every_shape():
    for architecture in (*ARCHITECTURES, 89, 120):
        for code_bytes in CODE_BYTES:
            for dim in range(16, 257, 16):
                config = config_of(architecture, code_bytes, 4, dim)
                for keys, warps in (
                    (config.scan_keys, config.scan_warps),
                    (config.select_keys, config.select_warps),
                ):
                    assert 1024 % keys == 0
                    # 16 bytes a thread.
                    assert keys * code_bytes >= 16 * 32 * warps
                assert not config.exact
    assert config_of(INTERPRETER, 16, 4, 64).exact


def test_records_have_room_for_whole_chunks():
    records = DeviceRecords.empty(2, 3, 1025, 16, 64)
    assert records.codes.shape == (2, 3, 2048, 16)


def test_libraries_that_are_not_there_are_named():
    if torch.cuda.is_available():
        pytest.skip("a card may have them")
    layer = drawn(0, 1, 1, 1, 64, 80, 8)
    for call in (flash_attention_3, flashinfer):
        with pytest.raises(DeviceError):
            call(layer.query, layer.keys, layer.values, layer.workspace.survivors, layer.rule)
