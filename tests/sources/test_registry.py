"""The registry knows every model's shape without loading one, and its refusals say what to write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ghostkv.files.errors import ConfigError, ModelError
from ghostkv.sources.entries import SHAPE, ModelEntry
from ghostkv.sources.registry import check_domains, read_models, read_sources, resolve_model, shape_of

ROOT = Path(__file__).resolve().parents[2]
MODELS, TEXTS = ROOT / "resources/models.yaml", ROOT / "resources/texts.yaml"


def custom(**entry):
    return {"source": "hub", "id": "Qwen/Qwen2.5-0.5B", "layers": 24, "head_dim": 64} | entry


def test_every_listed_model_states_its_whole_shape_and_a_licence():
    for name in read_models(MODELS):
        entry = resolve_model(name, models_yaml=MODELS)
        assert all(getattr(entry, key) for key in SHAPE), name
        assert entry.heads % entry.kv_heads == 0, name
        assert entry.license, name


def test_every_listed_hub_source_is_pinned_to_a_commit():
    sources = [*read_models(MODELS).values(), *read_sources(TEXTS).values()]
    hub = [
        entry
        for entry in sources
        if getattr(entry, "source", None) == "hub" or getattr(entry, "kind", None) == "hub"
    ]
    assert hub
    assert all(len(entry.revision) == 40 and int(entry.revision, 16) for entry in hub)


def test_the_default_model_has_thirty_layers_and_270_heads():
    entry = resolve_model("smollm2-135m-instruct", models_yaml=MODELS)
    assert (entry.layers, entry.layers * entry.heads, entry.kv_heads) == (30, 270, 3)


def test_resolving_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from ghostkv.sources.registry import resolve_model, check_domains;"
        f"resolve_model('gpt2', None, {str(MODELS)!r}); check_domains(['qa'], {str(TEXTS)!r});"
        "heavy = {'torch', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules); assert not heavy, "
        "heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_unknown_name_lists_the_known_ones_and_guesses():
    with pytest.raises(ConfigError, match=r"smollm2-135m.*Accepted: smollm2-135m-instruct, .*gpt2") as caught:
        resolve_model("smollm2-135m", models_yaml=MODELS)
    assert "name: smollm2-135m-instruct" in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "", ".hidden", "a/b", "with space"])
def test_a_name_that_is_no_folder_name_is_refused(name):
    with pytest.raises(ConfigError, match=r"model\.name"):
        resolve_model(name, custom(), MODELS)


def test_a_custom_model_may_not_take_a_listed_name():
    with pytest.raises(ConfigError, match="my-gpt2"):
        resolve_model("gpt2", custom(), MODELS)


def test_a_hub_model_must_state_its_layers():
    with pytest.raises(ConfigError, match=r"model\.custom\.layers is missing"):
        resolve_model("mine", custom(layers=None), MODELS)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"source": "hub", "layers": 2}, ["id is missing", "Write: id:"]),
        ({"source": "path"}, ["path is missing", "Write: path:"]),
        ({"source": "random"}, ["architecture is missing"]),
        ({"source": "hubb", "id": "a/b"}, ["source", "hub"]),
        (custom(layer=3), ["layer", "layers"]),
        (custom(layers=0), ["layers", "0"]),
        (custom(layers="many"), ["layers", "many"]),
    ],
)
def test_a_faulty_entry_names_key_and_fix(entry, words):
    with pytest.raises(ConfigError) as caught:
        resolve_model("mine", entry, MODELS)
    assert all(word in str(caught.value) for word in ["model.custom", *words])


def test_an_entry_understands_every_key_of_a_custom_model():
    from ghostkv.config.model import CustomModel

    assert CustomModel.model_fields.keys() <= ModelEntry.model_fields.keys()


def test_a_broken_list_is_named(tmp_path):
    (tmp_path / "models.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"models\.yaml: not a readable YAML"):
        read_models(tmp_path / "models.yaml")
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"mine": {"source": "hub"}}))
    with pytest.raises(ConfigError, match=r"models\.yaml: mine: id is missing"):
        read_models(tmp_path / "models.yaml")


def test_the_description_of_an_entry_is_no_parameter_of_the_fetch():
    entry = ModelEntry(source="hub", id="a/b", about="words for the reader")
    assert "about" not in entry.plain()


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ({"heads": 3, "kv_heads": 2}, "heads: 4"),
        ({"heads": 4, "kv_heads": 8}, "heads: 16"),
        ({"head_dim": 15}, "head_dim: 16"),
        ({"architecture": "gpt2", "heads": 4, "kv_heads": 2}, "kv_heads: 4"),
        ({"layers": 1000, "heads": 1024, "head_dim": 1024}, "layers"),
    ],
)
def test_a_random_model_that_cannot_be_made_is_refused_by_its_key(shape, word):
    with pytest.raises(ConfigError, match=word):
        resolve_model("mine", {"source": "random", "architecture": "llama", **shape}, MODELS)


def test_a_random_model_gets_a_whole_shape_by_default():
    entry = resolve_model("mine", {"source": "random", "architecture": "gpt2", "heads": 6}, MODELS)
    assert (entry.layers, entry.heads, entry.kv_heads, entry.head_dim, entry.seed) == (2, 6, 6, 16, 0)


def folder_of(path, **config):
    """A model folder as far as a start looks into it."""
    (path / "config.json").write_text(json.dumps({"head_dim": 16} | config))
    (path / "model.safetensors").write_bytes(b"weights")
    return {"source": "path", "path": str(path)}


def test_a_local_folder_tells_its_own_shape(tmp_path):
    entry = folder_of(tmp_path, num_hidden_layers=7, max_position_embeddings=4096)
    entry = resolve_model("mine", entry, MODELS)
    assert (entry.layers, entry.attending(), entry.max_context) == (7, (0, 1, 2, 3, 4, 5, 6), 4096)
    assert entry.local_files() == [str(tmp_path / "config.json"), str(tmp_path / "model.safetensors")]


@pytest.mark.parametrize(
    ("config", "head_dim"),
    [
        ({"head_dim": 32, "hidden_size": 64, "num_attention_heads": 4}, 32),
        ({"head_dim": None, "hidden_size": 64, "num_attention_heads": 4}, 16),
        ({"head_dim": 16, "global_head_dim": 32}, 32),
        ({"head_dim": 8, "qk_rope_head_dim": 8, "qk_head_dim": 24}, 24),  # of latent attention
        (
            {
                "layer_types": ["sliding_attention", "full_attention"],
                "per_layer_config": {"1": {"head_dim": 32}},
            },
            32,
        ),
        ({"head_dim": None, "n_embd": 64, "n_head": 2}, 32),
        ({"head_dim": None, "text_config": {"n_layer": 3, "d_model": 64, "n_heads": 1}}, 64),
    ],
)
def test_a_local_folder_tells_its_head_dim_or_what_it_follows_from(tmp_path, config, head_dim):
    assert resolve_model("mine", folder_of(tmp_path, n_layer=3, **config), MODELS).head_dim == head_dim


def test_a_head_dim_that_nothing_tells_must_be_stated(tmp_path):
    lacking = folder_of(tmp_path, n_layer=3, head_dim=None, hidden_size=64)
    for entry in (lacking, custom(head_dim=None)):
        with pytest.raises(ConfigError, match=r"model\.custom\.head_dim is missing.*\n.*Write: head_dim: 64"):
            resolve_model("mine", entry, MODELS)
        assert resolve_model("mine", entry | {"head_dim": 80}, MODELS).head_dim == 80


def test_stated_layers_win_over_the_folder_until_the_fetch_compares_them(tmp_path):
    entry = resolve_model("mine", folder_of(tmp_path, n_layer=7) | {"layers": 3}, MODELS)
    assert entry.layers == 3


@pytest.mark.parametrize("content", [None, "{broken", "[" * 100000, "[1]", '{"n_layer": 2, "n_layer": 3}'])
def test_a_folder_without_a_readable_config_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve_model("mine", {"source": "path", "path": str(tmp_path)}, MODELS)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"n_layer": 10**9}, "layers"),
        ({"n_layer": -1}, "layers"),
        ({"n_layer": 2, "n_positions": 0}, "max_context"),
    ],
)
def test_a_shape_out_of_range_is_refused_before_jobs_are_planned_from_it(tmp_path, config, key):
    with pytest.raises(ConfigError, match=key):
        resolve_model("mine", folder_of(tmp_path, **config), MODELS)


@pytest.mark.parametrize(
    "config", [{"n_layer": True}, {"n_layer": "7"}, {"n_layer": 7.5}, {"text_config": 3}]
)
def test_a_number_of_layers_that_is_none_must_be_stated(tmp_path, config):
    with pytest.raises(ConfigError, match=r"model\.custom\.layers"):
        resolve_model("mine", folder_of(tmp_path, **config), MODELS)


@pytest.mark.parametrize("name", ["absent", "model.safetensors"])
def test_a_path_that_is_neither_folder_nor_gguf_is_refused(tmp_path, name):
    folder_of(tmp_path)
    with pytest.raises(ModelError, match=r"neither a model folder nor a \.gguf") as caught:
        resolve_model("mine", {"source": "path", "path": str(tmp_path / name)}, MODELS)
    assert (
        f"write path: {tmp_path}\n" in str(caught.value) or f"write path: {tmp_path}." in str(caught.value)
    ) == (name != "absent")


def test_a_damaged_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"no gguf at all")
    with pytest.raises(ModelError, match="not a readable GGUF"):
        resolve_model("mine", {"source": "path", "path": str(path)}, MODELS)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"n_layer": 12, "n_head": 12, "n_positions": 1024}, {"layers": 12, "max_context": 1024}),
        ({"text_config": {"num_hidden_layers": 3}}, {"layers": 3}),
        ({"encoder_layers": 2, "decoder_layers": 3}, {"layers": 3}),
        (
            {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "sliding_attention"]},
            {"layers": 3, "attention_layers": (1, 2)},
        ),
        ({"layers_block_type": ["mamba", "moe", "attention"]}, {"layers": 3, "attention_layers": (2,)}),
        ({"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}, {"layers": 2}),
        ({"num_hidden_layers": None, "hidden_size": 64}, {}),
    ],
)
def test_shapes_are_read_from_every_family(config, shape):
    assert shape_of(config) == shape


def test_an_unknown_domain_lists_the_known_ones():
    check_domains(["essays", "qa", "code"], TEXTS)
    with pytest.raises(ConfigError, match=r"names esays, .*Accepted: essays, qa, code") as caught:
        check_domains(["esays"], TEXTS)
    assert "Did you mean essays?" in str(caught.value)
