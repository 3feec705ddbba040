"""Each cache type against a literal reference, and its bytes against what it would store."""

import math

import numpy as np
import pytest

from ghostkv.files.errors import CaptureError, ConfigError
from ghostkv.quantised.by_name import CACHE_TYPES, cache_type
from ghostkv.quantised.floats import to_e4m3

TOKENS, WIDTH, VALUES = 300, 64, 80


@pytest.fixture(scope="module")
def cache():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(TOKENS, WIDTH)) * np.exp(rng.normal(size=WIDTH)) + rng.normal(size=WIDTH)
    values = rng.standard_t(3, size=(TOKENS, VALUES))
    keys[7] = 1.25  # a group without range
    return keys.astype(np.float32), values.astype(np.float32)


def by_hand(group, bits: int) -> list[float]:
    """One group of numbers, one after the other."""
    top = 2**bits - 1
    zero = float(np.float16(min(group)))
    scale = float(np.float16(np.float32(np.float32(max(group)) - np.float32(min(group))) / np.float32(top)))
    found = []
    for number in group:
        if scale == 0:
            found.append(zero)
            continue
        steps = float(np.float32(np.float32(number) - np.float32(zero)) / np.float32(scale))
        low = math.floor(steps)
        # Half to even.
        code = low + (steps - low > 0.5 or (steps - low == 0.5 and low % 2 == 1))
        found.append(zero + scale * min(max(code, 0), top))
    return found


def rows_by_hand(rows: np.ndarray, bits: int, group: int) -> np.ndarray:
    return np.array(
        [
            [x for begin in range(0, len(row), group) for x in by_hand(row[begin : begin + group], bits)]
            for row in rows
        ]
    )


@pytest.mark.parametrize(
    ("name", "bits", "group"), [("int8", 8, None), ("int6", 6, 32), ("int4", 4, 32), ("int3", 3, 32)]
)
def test_integers_are_rounded_group_by_group(cache, name, bits, group):
    for read, own in zip(cache_type(name).write(*cache), cache, strict=True):
        wanted = rows_by_hand(own, bits, group or own.shape[1])
        assert np.abs(read - wanted).max() < 1e-5
        # Half a step at most, and what fp16 rounds of scale and zero point.
        step = np.ptp(own, axis=1, keepdims=True) / (2**bits - 1)
        assert (np.abs(read - own) <= 0.55 * step + 2**-10 * np.abs(own).max(axis=1, keepdims=True)).all()


def test_kivi_writes_keys_by_channel_and_values_by_token(cache):
    keys, values = cache
    read_keys, read_values = cache_type("kivi2").write(keys, values)
    for begin in range(0, 256, 32):
        block = keys[begin : begin + 32]
        wanted = np.array([by_hand(block[:, channel], 2) for channel in range(WIDTH)]).T
        assert np.abs(read_keys[begin : begin + 32] - wanted).max() < 1e-5
    # Of 300 tokens 2 x 128 keys were written, and all values but the last 128.
    assert np.array_equal(read_keys[256:], keys[256:])
    assert np.abs(read_values[:172] - rows_by_hand(values[:172], 2, 32)).max() < 1e-5
    assert np.array_equal(read_values[172:], values[172:])


def test_e4m3_is_what_torch_makes_of_it():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    every = np.sort(every[np.isfinite(every)])
    halves = (every[1:] + every[:-1]) / 2  # ties
    numbers = np.concatenate([every, halves, rng.normal(size=100_000) * np.exp(4 * rng.normal(size=100_000))])
    numbers = numbers.astype(np.float32)
    torchs = torch.from_numpy(np.clip(numbers, -448, 448)).to(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(to_e4m3(numbers), torchs)


def test_scales_of_fp8_serve_one_token_and_head(cache):
    # Numbers far below what e4m3 can tell apart.
    small = tuple(one * np.float32(2.0**-9) for one in cache)
    plain, scaled = (cache_type(name).write(*small)[0] for name in ("fp8", "fp8_scaled"))
    lengths = np.linalg.norm(small[0], axis=1)
    plain, scaled = (np.linalg.norm(one - small[0], axis=1) / lengths for one in (plain, scaled))
    assert scaled.max() < 0.05 < np.median(plain)


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_what_a_token_becomes_does_not_depend_on_later_ones(cache, name):
    """A server writes as tokens come; only what KIVI keeps in fp16 changes afterwards."""
    kind = cache_type(name)
    keys, values = cache
    whole = kind.quantise(keys, values)
    some = 200 // kind.together * kind.together
    for part, full in zip(kind.quantise(keys[:some], values[:some]), whole, strict=True):
        assert np.array_equal(part, full[:some])


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("fp16", 256), ("fp8", 128), ("fp8_scaled", 132), ("int8", 128 + 8), ("int6", 96 + 16), ("int4", 64 + 16),
        ("int3", 48 + 16), ("kivi2", 32 + 16),
    ],
)  # fmt: skip
def test_bytes_count_scales_and_what_stays_in_fp16(name, pair):
    kind = cache_type(name)
    assert kind.pair_bytes(64, 64) == pair
    read = kind.read_bytes(np.array([4096, 300]), 64, 64)
    if name == "kivi2":
        # Of 4,096 tokens no key and 128 values are kept in fp16; of 300, 44 and 128.
        assert read.tolist() == [
            4096 * 24 + 3968 * 24 + 128 * 128, 256 * 24 + 172 * 24 + 44 * 128 + 128 * 128,
        ]  # fmt: skip
    else:
        assert read.tolist() == [4096 * pair, 300 * pair]


def test_fewer_bits_lose_more(cache):
    lost = [
        np.linalg.norm(cache_type(name).write(*cache)[1] - cache[1])
        for name in ("int8", "int6", "int4", "int3")
    ]
    assert lost == sorted(lost)
    assert lost[0] * 10 < lost[-1]


def test_numbers_beyond_fp16_and_unknown_types_are_refused(cache):
    keys = cache[0].copy()
    keys[3, 3] = 1e6
    with pytest.raises(CaptureError, match="1e\\+06"):
        cache_type("int4").write(keys, cache[1])
    with pytest.raises(ConfigError, match="int5"):
        cache_type("int5")
