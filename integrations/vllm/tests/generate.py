"""Tokens that vLLM generates from a tiny model, by its own backend or over survivors, in this process.

``python tests/generate.py FOLDER THETA`` prints one line of JSON; without THETA vLLM's own backend attends. Over survivors each
decode step is held against `ghostkv.gpu.reference`, which encodes the keys of the cache anew.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

THETA = float(sys.argv[2]) if len(sys.argv) > 2 else None
os.environ |= {
    "VLLM_PLUGINS": "" if THETA is None else "ghostkv",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
if THETA is not None:
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

BLOCK, SINKS, HOT, CODE_BYTES = 32, 4, 16, 8
# Estimates in float32 are this close to those in float64, in nats.
MARGIN = 2e-5


def prompts() -> list[list[int]]:
    """Texts of several lengths; the last two begin alike, so that blocks of the cache serve both."""
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(2, 320, (n,), generator=generator).tolist() for n in (300, 1, 65, 150)]
    return [*texts, texts[-1][:128] + texts[0][:40]]


def generated(folder: Path) -> list[list[int]]:
    more = {"codecs": str(folder / "codecs_{layer}.safetensors"), "code_bytes": CODE_BYTES, "theta": THETA}
    options = {} if THETA is None else {"ghostkv": more | {"sinks": SINKS, "hot": HOT}}
    # Prompts are prefilled in pieces, beside sequences that decode.
    llm = LLM(
        model=str(folder / "model"), skip_tokenizer_init=True, dtype="float16", enforce_eager=True, block_size=BLOCK,
        max_model_len=512, max_num_batched_tokens=128, max_num_seqs=4, num_gpu_blocks_override=80,
        additional_config=options, seed=0,
    )  # fmt: skip
    sampling = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": one} for one in prompts()], sampling, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in outputs]


def watched(folder: Path) -> dict:
    """Hold every decode step of every layer against the reference; what was found is in the result."""
    import ghostkv_vllm.backend as backend
    from vllm.model_executor.models.utils import extract_layer_index

    from ghostkv.codecs.records import CodecSpec, load_codecs
    from ghostkv.gpu.reference import reference_row

    spec, codecs, layers = CodecSpec("field_code", CODE_BYTES), {}, []
    names = ("rows", "unequal", "close", "survivors", "cold", "out")
    result = dict.fromkeys(names, 0)
    decode, begin = backend.GhostAttention._decode, backend.GhostAttention._begin

    def beginning(self, layer, kv_cache):
        begin(self, layer, kv_cache)
        number = extract_layer_index(layer.layer_name)
        codecs[self] = load_codecs(folder / f"codecs_{number}.safetensors", [spec])
        layers.append(self)

    def decoding(self, query, kv_cache, part, output):
        decode(self, query, kv_cache, part, output)
        (room,) = (
            one for terms, one in part.workspaces.items() if terms == self.records.frames.decoder.shape[1]
        )
        kv_heads, size, dim = kv_cache.shape[1], kv_cache.shape[2], kv_cache.shape[3] // 2
        group = self.num_heads // kv_heads
        for number, length in enumerate(part.length.tolist()):
            at = torch.arange(length)
            block, offset = part.blocks[number, at // size], at % size
            token = part.tokens[number]
            for kv in range(kv_heads):
                keys, values = kv_cache[block, kv, offset].chunk(2, -1)
                records = codecs[self][spec, kv].encode(keys.float().numpy())
                heads = slice(kv * group, (kv + 1) * group)
                one = reference_row(
                    query[token].view(-1, dim)[heads], keys, values, codecs[self][spec, kv],
                    torch.from_numpy(records.code), torch.from_numpy(records.rho), self.rule, self.rule.theta[heads],
                    0, length, length,
                )  # fmt: skip
                row = number * kv_heads + kv
                read = room.page_table[row, : int(room.seqlens[row])].long()
                where = 2 * ((block * kv_heads + kv) * size + offset)
                low = min(SINKS, length)
                close = where[low + torch.nonzero(one.above.abs() < MARGIN).flatten()]
                mine, wanted = (rows[~torch.isin(rows, close)] for rows in (read, where[one.read]))
                out = output[token].view(-1, dim)[heads].double()
                error = ((out - one.out).norm(dim=1) / one.out.norm(dim=1)).max()
                result["rows"] += 1
                result["unequal"] += not torch.equal(mine, wanted)
                result["close"] += len(close)
                result["survivors"] += len(one.survivors)
                result["cold"] += len(one.above)
                result["out"] = max(result["out"], float(error))

    backend.GhostAttention._decode, backend.GhostAttention._begin = decoding, beginning
    return {"reference": result, "layers": layers}


def main(folder: Path) -> None:
    found = watched(folder) if THETA is not None else {}
    result = {"tokens": generated(folder)}
    if found:
        result["reference"] = found["reference"]
        result["counted"] = [layer.traffic().summary() for layer in found["layers"]]
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
