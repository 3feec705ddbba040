"""What tests of fetched models share: fetching as the rule does, and a tiny model as a folder and as a GGUF file."""

import json
import shutil
from pathlib import Path

import numpy as np

from ghostkv.models.tokenizer import load_tokenizer
from ghostkv.sources.registry import resolve_model
from ghostkv.stages.model.fetch import fetch_model
from ghostkv.stages.model.jobs import FetchModel

LIST = Path(__file__).resolve().parents[3] / "resources/models.yaml"


def fetched(root, custom, name="mine"):
    """Fetch a model into `root`, as the rule does, and return its folder; a listed one where `custom` is None."""
    job = FetchModel.read({"name": name, "entry": resolve_model(name, custom, LIST).plain()})
    folder = root / f"resources/models/{name}"
    fetch_model(job, {}, {"manifest": str(folder / "manifest.json")})
    return folder


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def logits(folder, text="Attention is what is kept."):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([load_tokenizer(folder).encode(text)])
    with torch.no_grad():
        return model(ids).logits[0].numpy()


def copied(folder, target):
    """A folder as a user may have it: no manifest."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("manifest.json"))
    return target


def write_gguf(folder, path, leave_out=(), extra=(), meta=lambda writer: None):
    """The tiny Llama as a GGUF file, rows of Q and K interleaved as llama.cpp keeps them."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads, vocabulary = (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["vocab_size"],
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A tiny name with spaces")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokens = sorted(
        json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].items(),
        key=lambda item: item[1],
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in tokens] + ["<|endoftext|>", "ab"])
    writer.add_token_types([1] * len(tokens) + [3, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(vocabulary - 1)
    writer.add_eos_token_id(vocabulary - 1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(folder / "model.safetensors").items():
        if "q_proj" in name or "k_proj" in name:
            count = heads if "q_proj" in name else kv_heads
            weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        if len(weight) == vocabulary:
            weight = np.concatenate([weight, np.zeros_like(weight[:1])])  # for the merge, which GGUF needs
        named = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if named not in leave_out:
            writer.add_tensor(named, np.ascontiguousarray(weight))
    for named in extra:
        writer.add_tensor(named, np.ones(8, np.float32))
    meta(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
