"""Retrieval tasks: needles once and in their place, prompts within their length, answers that a reader can find."""

import json
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ghostkv.stages.retrieval.tasks
from ghostkv.config.retrieval import TASK_NAMES
from ghostkv.files.errors import ConfigError, TextError
from ghostkv.stages.retrieval.tasks import TASKS
from ghostkv.stages.retrieval.tasks.base import Workshop
from ghostkv.stages.retrieval.tasks.material import Material, Source
from ghostkv.stages.retrieval.tasks.scoring import score

ENTRY = yaml.safe_load((Path(ghostkv.stages.retrieval.tasks.__file__).parent / "ruler.yaml").read_text())
NEEDLE = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\.")


def encode(content):
    """A token a word, so that lengths are easy to check."""
    return np.array([zlib.crc32(word.encode()) for word in content.split()], np.int64)


def count(contents):
    return np.array([len(content.split()) for content in contents])


def material(fitted=()):
    return Material(Source.of(ENTRY, "tests/config/ruler"), "unused", encode, fitted)


def examples(name, room=500, seed=0, depths=(0.0, 0.5, 1.0)):
    task, rng, found = TASKS[name], np.random.default_rng(seed), material()
    prose = found.haystack(rng, room) if task.source == "essays" else ()
    asked = {task.source: found.questions(task.source)} if task.source in ("squad", "hotpotqa") else {}
    workshop = Workshop(count, room, prose, asked)
    return task.build(workshop, rng, *(() if task.per_context else (depths,)))


def test_the_config_names_the_tasks_that_exist():
    assert set(TASK_NAMES) == set(TASKS)


@pytest.mark.parametrize("name", TASK_NAMES)
@settings(max_examples=5, deadline=None)
@given(room=st.integers(330, 900), seed=st.integers(0, 100))
def test_prompts_keep_to_their_room_and_a_draft_has_the_full_score(name, room, seed):
    for example in examples(name, room, seed):
        assert count([example.context + example.question + " " + example.answer_start])[0] <= room
        assert score(example.draft, example.references, TASKS[name].rule) == 1.0
        assert score("nothing of the kind", example.references, "all") == 0.0
        # A question of HotpotQA may name what it lets one choose from.
        asked = example.question + example.answer_start
        assert name.startswith("qa") or not any(reference in asked for reference in example.references)


@pytest.mark.parametrize("name", [name for name in TASK_NAMES if "single" in name or "multikey" in name])
def test_a_regular_expression_finds_the_one_needle_that_is_asked_for(name):
    for example in examples(name):
        key = re.search(r"for (\S+) mentioned", example.question)[1]
        found = [secret for name, secret in NEEDLE.findall(example.context) if name == key]
        assert found == list(example.references)


def test_needles_stand_at_their_depth():
    depths = (0.0, 0.25, 0.5, 0.75, 1.0)
    for example in examples("niah_single_2", depths=depths):
        text = example.context.split("\n", 1)[1]
        before, needle, after = text.partition("One of the special magic")
        share = len(before.split()) / (len(before.split()) + len(after.split("is:", 1)[1].split()) - 1)
        assert example.depth in depths
        assert abs(share - example.depth) < 0.03
        assert text.count(needle) == 1


@pytest.mark.parametrize("name", ["niah_multivalue", "niah_multiquery"])
def test_all_values_asked_for_are_there_once(name):
    (example,) = examples(name)
    found = Counter(secret for _, secret in NEEDLE.findall(example.context))
    assert set(found) == set(example.references)
    assert set(found.values()) == {1}


def test_a_chain_is_followed_from_its_value():
    (example,) = examples("vt", 600)
    value = re.search(r"assigned the value (\d+)", example.question)[1]
    text = example.context[example.context.rindex("following text") :]
    names = re.findall(rf"VAR (\w+) = {value}\b", text)
    while new := [
        to for to, frm in re.findall(r"VAR (\w+) = VAR (\w+)", text) if frm in names and to not in names
    ]:
        names += new
    assert set(names) == set(example.references)
    assert len(names) == 5


def test_common_words_are_the_most_common():
    (example,) = examples("cwe", 700)
    words = re.findall(r"\d+\. (\w+)", example.context[example.context.rindex("Below is") :])
    assert {word for word, _ in Counter(words).most_common(10)} == set(example.references)
    assert min(Counter(words)[word] for word in example.references) > max(
        times for word, times in Counter(words).items() if word not in example.references
    )


def test_frequent_words_are_the_most_frequent_after_the_dots():
    (example,) = examples("fwe", 700)
    ranked = Counter(example.context.rpartition("coded words. ")[2].split()).most_common(4)
    assert ranked[0][0] == "...."
    assert {word for word, _ in ranked[1:]} == set(example.references)


@pytest.mark.parametrize("name", ["qa_squad", "qa_hotpotqa"])
def test_the_documents_of_a_question_are_among_those_given(name):
    (example,) = examples(name)
    assert any(answer in example.context for answer in example.references)


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    assert examples("niah_multikey_1", seed=3) == examples("niah_multikey_1", seed=3)
    assert examples("niah_multikey_1", seed=3) != examples("niah_multikey_1", seed=4)


def test_no_haystack_from_what_codecs_were_fitted_on():
    essays = json.loads(Path("tests/config/ruler/PaulGrahamEssays.json").read_text())["text"]
    with pytest.raises(TextError, match="all share passages"):
        material([essays]).haystack(np.random.default_rng(0), 500)
    half = essays[: len(essays) // 2]
    found = "".join(material([half]).haystack(np.random.default_rng(0), 500))
    assert found.strip()[:60] not in half


def test_no_room_and_no_data_are_told():
    with pytest.raises(ConfigError, match="length"):
        examples("niah_multiquery", 60)
    with pytest.raises(TextError, match="too few"):
        material().haystack(np.random.default_rng(0), 10**6)
    with pytest.raises(TextError, match="data: ruler"):
        Source.of(ENTRY, "no/such/folder").read("squad", "unused")


@pytest.mark.parametrize(
    ("answer", "references", "rule", "expected"),
    [
        ("It is 12 and 34.", ("12", "34", "56"), "all", 2 / 3),
        ("PARIS", ("paris", "the capital"), "part", 1.0),
        ("", ("paris",), "part", 0.0),
    ],
)
def test_scores(answer, references, rule, expected):
    assert score(answer, references, rule) == pytest.approx(expected)
    with pytest.raises(ValueError, match="none of"):
        score(answer, references, "most")
