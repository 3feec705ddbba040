"""Text to token ids: one way for all stages, with the model's own beginning, no end, and no date of today."""

import json
from datetime import datetime

import pytest
import transformers.utils.chat_template_utils as templates
from tokenizers.processors import TemplateProcessing

from ghostkv.files.errors import ModelError, TextError
from ghostkv.models.tokenizer import (
    BYTE_VOCABULARY,
    byte_tokenizer,
    load_tokenizer,
    save_byte_tokenizer,
    token_ids_of,
)

BOS = EOS = BYTE_VOCABULARY - 1
NAME = "<|endoftext|>"


def made(folder, single="$A", template=None):
    """The byte tokenizer that puts special tokens around a text as `single` says."""
    save_byte_tokenizer(folder, 512)
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=[(NAME, BOS)])
    tokenizer.enable_truncation(8)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("single", "start"),
    [("$A", ()), (f"{NAME} $A", (BOS,)), (f"$A {NAME}", ()), (f"{NAME} {NAME} $A {NAME}", (BOS, BOS))],
)
def test_a_text_begins_as_the_model_wants_and_has_no_end_in_its_middle(tmp_path, single, start):
    tokenizer = made(tmp_path, single)
    text = "A text that goes on. " * 20
    bare = list(tokenizer.encode(text))
    assert len(bare) == len(text)
    assert tokenizer.start == start
    for tokens in (1, 5, 100):
        assert tokenizer.first(text, tokens) == [*start, *bare][:tokens]
    assert tokenizer.count([text, "ab", ""]).tolist() == [len(text), 2, 0]


def test_of_a_long_text_no_more_is_encoded_than_is_asked_for(tmp_path):
    tokenizer, content = made(tmp_path, f"{NAME} $A"), "Thé quick fox. " * 40_000
    whole = [*tokenizer.start, *tokenizer.encode(content)]
    asked, encode = [], tokenizer.encode
    tokenizer.encode = lambda text: asked.append(len(text)) or encode(text)
    assert tokenizer.first(content, 300) == whole[:300]
    assert tokenizer.first(content, 100_000) == whole[:100_000]
    assert max(asked[:2]) < 1 << 17
    assert max(asked) < len(content)


def test_a_text_that_is_too_short_is_refused_with_the_length_it_has(tmp_path):
    tokenizer = made(tmp_path, f"{NAME} $A {NAME}")
    assert len(token_ids_of(tokenizer, "abcd", 5, "mine")) == 5
    with pytest.raises(TextError, match="has 5 tokens"):
        token_ids_of(tokenizer, "abcd", 6, "mine")


def test_a_prompt_of_a_base_model_begins_as_its_texts_do(tmp_path):
    form = made(tmp_path, f"{NAME} $A").form()
    assert (form.start, form.before, form.after) == ((BOS,), "", "\n")


def test_a_chat_templates_own_beginning_stands_alone(tmp_path):
    form = made(tmp_path, f"{NAME} $A", "{{ bos_token }}Q: {{ messages[0].content }} A:").form()
    assert (form.start, form.before, form.after) == ((), f"{NAME}Q: ", " A:")


DATED = "{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}|"
# Llama 3.1 asks for the date in this way.
GUARDED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}|{{ messages[0].content }}|"
)


@pytest.mark.parametrize("template", [DATED, GUARDED])
def test_a_template_that_prints_the_date_prints_the_same_one_on_another_day(tmp_path, template, monkeypatch):
    class Tomorrow(datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(2031, 1, 2)

    tokenizer = made(tmp_path, template=template)
    before = tokenizer.form().before
    assert before == "26 Jul 2024|"
    monkeypatch.setattr(templates, "datetime", Tomorrow)
    assert load_tokenizer(tmp_path).form().before == before


@pytest.mark.parametrize(
    "template",
    [
        "a fixed text",
        "{{ messages[0].content }}{{ messages[0].content }}",
        "{{ messages[0].content | lower }}",
        "{{ raise_exception('a system message first') }}",
        "{{ messages[1].content }}",
        "{% if %}",
    ],
)
def test_a_template_that_does_not_write_the_message_as_it_is_is_refused(tmp_path, template):
    with pytest.raises(ModelError, match="chat template"):
        made(tmp_path, template=template).form()


def test_ids_are_written_with_or_without_special_ones(tmp_path):
    tokenizer = made(tmp_path)
    ids = [*tokenizer.encode("ab"), EOS]
    assert (tokenizer.decode(ids), tokenizer.decode(ids, special=False)) == (f"ab{NAME}", "ab")
    assert tokenizer.ends == {EOS}


def test_capture_quality_and_retrieval_read_the_same_beginning(tmp_path):
    from types import SimpleNamespace

    from ghostkv.stages.historical.run import cut_prompts
    from ghostkv.stages.quality.setup import token_ids

    tokenizer = made(tmp_path, f"{NAME} $A {NAME}")
    text = "What a text begins with, all stages read alike."
    captured = token_ids_of(tokenizer, text, 20, "mine")
    read = token_ids(tokenizer, text, "mine", SimpleNamespace(context=15, continuation=4))
    form = tokenizer.form()
    asked = [*form.start, *tokenizer.encode(form.before + text)]
    prompt = next(cut_prompts({"mine": tokenizer.encode(text)}, [20], 1, tokenizer.start))
    assert captured == read == asked[:20]
    assert (captured[0], prompt[0], len(prompt)) == (BOS, BOS, 20)
