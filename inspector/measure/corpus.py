"""Which text is measured on: a name or a file becomes windows of token ids.

A text is named by a spec: a row of `CORPORA`, such as ``pydoc:search``, or ``file:PATH``. Its rows
are joined by two newlines, tokenised once as a whole and cut into windows of equal length, as the
pruning papers do; what is left at the end and fills no window is dropped. No window holds padding.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import itertools
import json
import os
import platform
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inspector.errors import CorpusError
from inspector.jobs import Progress, part, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
"""What stands between two rows of a text."""

DEFAULT_SEARCH = "pydoc:search"
"""The text that methods search on unless another is asked for. Needs no network."""

DEFAULT_CHECK = "pydoc:check"
"""The text that their results are checked on; shares no paragraph with `DEFAULT_SEARCH`."""

DEFAULT_SAMPLES, DEFAULT_LENGTH = 8, 256
"""Windows, and tokens in each, to search and compare units on unless others are asked for."""

CHECK_SAMPLES, CHECK_LENGTH = 16, 512
"""The same for perplexity; a model that was made for shorter windows gets those."""


@dataclass(frozen=True)
class Hub:
    """Where a corpus lies on the hub: arguments of ``datasets.load_dataset`` and the text's field.

    `take` is the number of rows that make up the text, from the first on; None takes them all. It
    belongs to the corpus, so that the text is the same whatever number of windows is asked for.
    """

    path: str
    config: str | None
    split: str
    field: str = "text"
    streaming: bool = False
    take: int | None = None


@dataclass(frozen=True)
class Corpus:
    """One named text: a row of the table that help, README and error messages are made from.

    `role` says what it is offered for: ``search`` (methods choose units on it), ``check`` (results
    are measured on it) or ``any`` (not for both at once).
    """

    spec: str
    label: str
    source: str
    licence: str
    role: str
    hub: Hub | None = None

    @property
    def name(self) -> str:
        """The part of the spec before the colon."""
        return self.spec.partition(":")[0]

    @property
    def split(self) -> str:
        """The part of the spec after the colon; empty where there is none."""
        return self.spec.partition(":")[2]


def _wikitext2(split: str, role: str) -> Corpus:
    return Corpus(
        f"wikitext2:{split}",
        f"WikiText-2 raw, {split} split",
        "Salesforce/wikitext",
        "CC BY-SA 3.0 / GFDL",
        role,
        Hub("Salesforce/wikitext", "wikitext-2-raw-v1", split),
    )


def _pydoc(spec: str, label: str, role: str) -> Corpus:
    return Corpus(spec, label, "pydoc_data.topics of the running Python", "PSF-2.0", role)


CORPORA: tuple[Corpus, ...] = (
    _pydoc("pydoc:search", "Python's language reference, every other topic", "search"),
    _pydoc("pydoc:check", "Python's language reference, the other topics", "check"),
    _pydoc("pydoc", "Python's language reference, both halves", "any"),
    _wikitext2("train", "search"),
    _wikitext2("validation", "check"),
    _wikitext2("test", "check"),
    Corpus(
        "c4",
        "C4 (en), the first 2,000 documents of the train split",
        "allenai/c4",
        "ODC-BY 1.0, and Common Crawl's terms of use",
        "search",
        Hub("allenai/c4", "en", "train", streaming=True, take=2000),
    ),
    Corpus(
        "alpaca",
        "Stanford Alpaca in its prompt template, the first 2,000 rows",
        "tatsu-lab/alpaca",
        "CC BY-NC 4.0 (not for commercial use)",
        "search",
        Hub("tatsu-lab/alpaca", None, "train", take=2000),
    ),
)
"""Every named text. ``file:PATH`` comes on top (see `rows`)."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Token ids to measure on. `ids` is int64 [W, T] on the CPU, without padding.

    Window w and window w + 1 of the text start `stride` tokens apart, so with `stride` = T no two
    windows share a token. `about` is plain JSON and says what the text was: its `name` (the spec),
    the number of `windows` here and their `length`, `stride` and `seed` as asked for, `tokens` in
    the whole text, the first 12 hexadecimal digits of the `sha256` of the text in UTF-8, and for
    the `pydoc` texts, which change with it, the version of `python`.
    """

    ids: torch.Tensor
    stride: int
    about: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(W, T): the number of windows and the tokens in each."""
        return self.ids.shape[0], self.ids.shape[1]

    def __len__(self) -> int:
        """The number of windows."""
        return self.ids.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The windows in the order of the text, [T] each."""
        return iter(self.ids)


def specs(role: str | None = None) -> list[str]:
    """The specs of `CORPORA` in the table's order; with `role`, those offered for it."""
    return [each.spec for each in CORPORA if role is None or each.role == role]


def rows(spec: str, *, progress: Progress = silent) -> list[str]:
    """The rows that a text is made of, in order.

    `spec` is one of `CORPORA`, or ``file:PATH``: a ``.txt`` file is one row, verbatim; a ``.jsonl``
    file is one row a line, the string in its field `text` (blank lines are passed over). Both are
    UTF-8; a byte order mark is not part of the text. The ``pydoc`` rows are the topics in sorted
    order, each without the paragraphs that an earlier topic has (`compound` repeats `if`, `for` and
    others), so that no paragraph stands twice and the two halves, alternate rows, share none.

    Raises:
        CorpusError: an unknown corpus or split, a file that is missing, malformed or empty, or a
        corpus of the hub that cannot be had now.
    """
    if spec.startswith("file:"):
        return _file_rows(spec.removeprefix("file:"))
    corpus = _find(spec)
    if corpus.hub is not None:
        return _hub_rows(corpus, corpus.hub, progress)
    topics = _pydoc_rows()
    return {"search": topics[::2], "check": topics[1::2], "": topics}[corpus.split]


def windows(
    tokenizer: PreTrainedTokenizerBase,
    spec: str,
    *,
    length: int,
    samples: int | None = None,
    seed: int | None = None,
    stride: int | None = None,
    max_length: int | None = None,
    progress: Progress = silent,
) -> Windows:
    """Windows of `length` tokens of the text `spec`, starting every `stride` tokens (`length`).

    The whole text is tokenised in one call, so special tokens come where the tokenizer puts them
    around one text and never between windows. With `samples`, the first so many windows, or with
    `seed` as well a seeded choice of so many, in the order of the text; where the text has fewer
    they are all taken, and `about["windows"]` says how many there are. `max_length` is the longest
    window that the model takes.

    Raises:
        CorpusError: `length`, `samples` or `stride` out of range, a text too short for one window,
        or a text that cannot be read (see `rows`).
    """
    stride = length if stride is None else stride
    _check(length, samples=samples, stride=stride, max_length=max_length)
    progress(0, 2, f"reading {spec}")
    text = SEPARATOR.join(rows(spec, progress=part(progress, 0, 1, 2)))
    progress(1, 2, f"tokenising {spec}")
    tokens = tokenizer(text, return_attention_mask=False, verbose=False).input_ids
    if len(tokens) < length:
        raise CorpusError(_too_short(spec, len(tokens), length))
    cut = torch.tensor(tokens, dtype=torch.long).unfold(0, length, stride)
    ids = cut[_choose(len(cut), samples, seed)]
    about = {
        "name": spec,
        "windows": len(ids),
        "length": length,
        "stride": stride,
        "seed": seed,
        "tokens": len(tokens),
        "sha256": hashlib.sha256(text.encode()).hexdigest()[:12],
    }
    if spec.partition(":")[0] == "pydoc":
        about["python"] = platform.python_version()
    progress(2, 2)
    return Windows(ids, stride, about)


def _check(length: int, *, samples: int | None, stride: int, max_length: int | None) -> None:
    if length < 2:
        raise CorpusError(
            f"a window of {length} tokens predicts nothing: choose a length of 2 or more."
        )
    if max_length is not None and length > max_length:
        raise CorpusError(
            f"windows of {length} tokens are longer than the {max_length} that this model takes: "
            f"choose a length of at most {max_length}."
        )
    if samples is not None and samples < 1:
        raise CorpusError(f"cannot measure on {samples} windows: ask for 1 sample or more.")
    if not 1 <= stride <= length:
        raise CorpusError(
            f"a stride of {stride} is out of range: choose 1 to {length}, the length of a window."
        )


def _choose(available: int, samples: int | None, seed: int | None) -> list[int]:
    if samples is None or samples >= available:
        return list(range(available))
    if seed is None:
        return list(range(samples))
    return sorted(random.Random(seed).sample(range(available), samples))


def _too_short(spec: str, available: int, needed: int) -> str:
    levers = "choose a longer text"
    if available >= 2:
        levers = f"choose a length of at most {available}, or a longer text"
    return f"{spec} has {available} tokens and one window needs {needed}: {levers}."


def _find(spec: str) -> Corpus:
    for corpus in CORPORA:
        if corpus.spec == spec:
            return corpus
    name, _, split = spec.partition(":")
    known = [corpus.spec for corpus in CORPORA if corpus.name == name]
    if known:
        problem = f"{name} has no split {split!r}" if split else f"{name} needs a split"
        raise CorpusError(f"{problem}: choose {_either(known)}.")
    if spec.lower().endswith((".txt", ".jsonl")):
        raise CorpusError(f"no corpus is called {spec!r}: for a file write file:{spec}.")
    near = difflib.get_close_matches(spec.lower(), specs(), n=3, cutoff=0.5)
    hint = f"did you mean {_either(near)}? There are" if near else "choose one of"
    raise CorpusError(f"no corpus is called {spec!r}: {hint} {', '.join(specs())}, and file:PATH.")


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _pydoc_rows() -> list[str]:
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = []
    for name in sorted(topics):
        new = []
        for paragraph in topics[name].split(SEPARATOR):
            if paragraph.strip() and paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                new.append(paragraph)
        texts.append(SEPARATOR.join(new))
    return [text for text in texts if text]


def _hub_rows(corpus: Corpus, hub: Hub, progress: Progress) -> list[str]:
    import datasets  # here, because importing it costs seconds
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # whichever client this version of the hub uses

    progress(0, 1, f"fetching {hub.path} from the hub")
    # The arguments are constants that are known to be good, so that a ValueError (half a cached
    # copy) or a RuntimeError (a transfer broken off) is about the hub as well, not a bug here.
    try:
        found = datasets.load_dataset(
            hub.path, hub.config, split=hub.split, streaming=hub.streaming
        )
        return _texts(found, hub, progress)
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise CorpusError(
            f"{corpus.spec} cannot be had from the hub ({cause}): check the connection, or use "
            f"{DEFAULT_SEARCH}, {DEFAULT_CHECK} or file:PATH, which need none."
        ) from error


def _texts(found: Iterable[Any], hub: Hub, progress: Progress) -> list[str]:
    texts = []
    for row in itertools.islice(found, hub.take):
        texts.append(row[hub.field])
        if hub.take and len(texts) % 100 == 0:
            progress(len(texts), hub.take, f"{len(texts)} rows of {hub.path}")
    return texts


def _file_rows(path: str) -> list[str]:
    ending = Path(path).suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise CorpusError(f"{path} is a folder: name a .txt or .jsonl file in it.")
    if ending not in (".txt", ".jsonl"):
        raise CorpusError(f"cannot tell what {path!r} holds: its name must end in .txt or .jsonl.")
    text = _read(path)
    found = [text] if ending == ".txt" else _json_rows(path, text)
    if not any(row.strip() for row in found):
        raise CorpusError(f"{path} holds no text: choose a file that has some.")
    return found


def _read(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise CorpusError(f"there is no file {path}: check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"cannot read {path} ({reason}): choose another file.") from error
    text = data.removeprefix(codecs.BOM_UTF8)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(text)
        raise CorpusError(f"{path} is not UTF-8 (byte {at}): save it as UTF-8 text.") from error


def _json_rows(path: str, text: str) -> list[str]:
    # Lines end at "\n" alone: splitlines() would also split at separators inside JSON strings.
    lines = enumerate(text.split("\n"), start=1)
    return [_json_row(path, number, line) for number, line in lines if line.strip()]


def _json_row(path: str, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{path}, line {number} is not JSON ({error}): write one object a line, such as "
            '{"text": "..."}.'
        ) from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise CorpusError(
            f'{path}, line {number} has no string in a field "text": write one object a line, '
            'such as {"text": "..."}.'
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{path}, line {number} has half a surrogate pair at character {error.start} of its "
            "text: remove it or write the whole pair."
        ) from error
    return text
