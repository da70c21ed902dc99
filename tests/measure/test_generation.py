"""Greedy text under a mask: the model's own, streamed in whole characters, nothing left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from inspector.errors import InspectorError, MaskError, OutOfMemory
from inspector.jobs import Cancelled
from inspector.measure.generation import EVERY, Pen, generate
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted, replaced
from inspector.model.tiny import tiny_tokenizer
from inspector.results.checks import Generation
from inspector.results.files import from_json
from inspector.units import Mask

PROMPT = "The layers of the model are"
MASKS = ["", "0.attn", "0-3.attn", "1,3.ffn", "0-3"]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("tiny:llama", dtype="fp32")


@pytest.fixture(params=["llama", "gemma2", "gpt2"])
def family(request: pytest.FixtureRequest) -> LoadedModel:
    return load(f"tiny:{request.param}", dtype="fp32")


class Heard(list[Any]):
    """A progress that remembers its calls, and cancels at call number `cancel_at`."""

    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.cancel_at = cancel_at

    def __call__(self, done: float, total: float, note: str = "", partial: Any = None) -> None:
        self.append((done, total, note, partial))
        if len(self) == self.cancel_at:
            raise Cancelled

    @property
    def partials(self) -> list[Generation]:
        return [partial for *_, partial in self if partial is not None]


def prompt_ids(loaded: LoadedModel, prompt: str = PROMPT) -> torch.Tensor:
    return loaded.tokenizer(prompt, return_tensors="pt").input_ids


def asked(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """What transformers itself generates with the model's own settings, 24 new tokens at most."""
    model: Any = loaded.model
    mask = torch.ones_like(ids)
    return model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=24)


@torch.no_grad()
def uncached(loaded: LoadedModel, mask: str, tokens: int) -> str:
    """The most likely token, appended, the whole text through the model again; no cache at all."""
    ids = prompt_ids(loaded)
    before = ids.shape[1]
    with muted(loaded, loaded.mask(mask)):
        for _ in range(tokens):
            logits = loaded.model(input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            if int(ids[0, -1]) == loaded.tokenizer.eos_token_id:
                break
    return loaded.tokenizer.decode(ids[0, before:], skip_special_tokens=True)


@contextmanager
def speaking(loaded: LoadedModel, ids: list[int], *, vocabulary: int = 259):
    """Within the block, the model writes these ids whatever it is asked."""
    said = iter(ids)

    def head(stream: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*stream.shape[:-1], vocabulary)
        logits[..., -1, next(said)] = 1
        return logits

    lm_head: Any = loaded.model.lm_head
    with replaced(lm_head, head):
        yield


@pytest.mark.parametrize("mask", MASKS)
def test_it_is_what_the_model_generates_under_the_mask(loaded: LoadedModel, mask: str) -> None:
    def plain(text: str) -> tuple[str, int]:
        ids = prompt_ids(loaded)
        with muted(loaded, loaded.mask(text)):
            out = asked(loaded, ids)
        new = out[0, ids.shape[1] :].tolist()
        new = new[:-1] if new[-1] == loaded.tokenizer.eos_token_id else new
        return loaded.tokenizer.decode(new, skip_special_tokens=True), len(new)

    found = generate(loaded, PROMPT, loaded.mask(mask), tokens=24)
    assert (found.text, found.tokens) == plain(mask)
    assert (found.baseline_text, found.baseline_tokens) == plain("")
    assert found.mask == mask
    assert found.prompt == PROMPT
    assert found.provenance.source == "tiny:llama"
    assert found.provenance.seconds > 0


def test_a_mask_changes_the_text(loaded: LoadedModel) -> None:
    found = generate(loaded, PROMPT, loaded.mask("1,3.ffn"), tokens=24)
    assert found.text != found.baseline_text


@pytest.mark.parametrize("mask", ["0.attn", "0-3.attn", "2", "0-3"])
def test_with_the_cache_it_is_what_whole_forwards_give(family: LoadedModel, mask: str) -> None:
    # 40 tokens: the sliding layers of tiny gemma2 see 16.
    found = generate(family, PROMPT, family.mask(mask), tokens=40)
    assert found.text == uncached(family, mask, 40)
    assert found.baseline_text == uncached(family, "", 40)


@pytest.mark.parametrize("mask", ["", "1.attn"])
def test_partial_texts_only_ever_grow(loaded: LoadedModel, mask: str) -> None:
    heard = Heard()
    found = generate(loaded, PROMPT, loaded.mask(mask), tokens=30, progress=heard)
    partials = heard.partials
    assert len(partials) >= (2 if mask else 1) * (30 // EVERY)
    for earlier, later in zip(partials, [*partials[1:], found], strict=True):
        assert later.text.startswith(earlier.text)
        assert later.baseline_text.startswith(earlier.baseline_text)
        assert later.tokens >= earlier.tokens
        assert later.baseline_tokens >= earlier.baseline_tokens
    assert partials[0].tokens == EVERY
    assert partials[-1].text == found.text
    assert partials[-1].baseline_text == found.baseline_text
    if mask:  # the edited model's turn comes first
        assert partials[0].baseline_text == ""
        assert next(each for each in partials if each.baseline_text).text == found.text


def test_progress_counts_the_tokens_of_both_turns(loaded: LoadedModel) -> None:
    heard = Heard()
    generate(loaded, PROMPT, loaded.mask("1"), tokens=10, progress=heard)
    done = [each[0] for each in heard]
    assert done == sorted(done)
    assert {total for _, total, *_ in heard} == {20}
    assert set(range(21)) == set(done)
    assert [each[2] for each in heard if each[0] in (5, 15)] == [
        "the edited model writes",
        "the untouched model writes",
    ]


def test_nothing_muted_is_computed_once(loaded: LoadedModel) -> None:
    heard = Heard()
    found = generate(loaded, PROMPT, loaded.empty(), tokens=10, progress=heard)
    assert found.text == found.baseline_text != ""
    assert found.tokens == found.baseline_tokens == 10
    assert {total for _, total, *_ in heard} == {10}


def test_without_a_baseline_its_text_is_empty(loaded: LoadedModel) -> None:
    for mask in ("", "1"):
        heard = Heard()
        found = generate(
            loaded, PROMPT, loaded.mask(mask), tokens=8, baseline=False, progress=heard
        )
        assert (found.baseline_text, found.baseline_tokens) == ("", 0)
        assert found.tokens == 8
        assert {total for _, total, *_ in heard} == {8}


@pytest.mark.parametrize("at", [1, 5, 20])
def test_cancel_restores_the_model(loaded: LoadedModel, at: int) -> None:
    ids = prompt_ids(loaded)
    before = loaded.model(ids).logits
    settings = loaded.model.generation_config
    with pytest.raises(Cancelled):
        generate(loaded, PROMPT, loaded.mask("0-2"), tokens=16, progress=Heard(cancel_at=at))
    assert torch.equal(loaded.model(ids).logits, before)
    assert loaded.model.generation_config is settings
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_the_end_of_text_ends_it_and_is_not_counted(loaded: LoadedModel) -> None:
    letters = loaded.tokenizer("abcde").input_ids
    end = loaded.tokenizer.eos_token_id
    heard = Heard()
    with speaking(loaded, [*letters, end, *letters]):
        found = generate(loaded, PROMPT, loaded.empty(), tokens=16, baseline=False, progress=heard)
    assert (found.text, found.tokens) == ("abcde", 5)
    assert heard[-1][:2] == (16, 16)


@pytest.mark.parametrize("text", ["Größe: 5 µm²", "日本語", "ab😀👩‍💻c", "e\u0301ñ"])
def test_no_partial_text_breaks_off_inside_a_character(loaded: LoadedModel, text: str) -> None:
    ids = loaded.tokenizer(text).input_ids
    assert len(ids) == len(text.encode()) > len(text)  # one token a byte
    heard = Heard()
    with speaking(loaded, ids):
        found = generate(
            loaded, PROMPT, loaded.empty(), tokens=len(ids), baseline=False, progress=heard
        )
    assert found.text == text
    assert heard.partials
    for partial in heard.partials:
        assert text.startswith(partial.text)


def test_every_token_leaves_whole_characters() -> None:
    text = "a日😀é"
    tokenizer = tiny_tokenizer()
    pen = Pen(tokenizer, tokenizer("x").input_ids, set())
    seen = []
    for token in tokenizer(text).input_ids:
        pen.add([token])
        seen.append(pen.so_far()[0])
    assert list(dict.fromkeys(seen)) == ["a", "a日", "a日😀", "a日😀é"]


def test_bytes_that_are_no_character_stay_in_the_whole_text() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("é").input_ids
    pen = Pen(tokenizer, tokenizer("x").input_ids, set())
    pen.add([*tokenizer("a").input_ids, ids[0]])
    assert pen.so_far() == ("a", 2)
    assert pen.whole() == ("a\N{REPLACEMENT CHARACTER}", 2)


def test_a_prompt_that_ends_in_a_long_character_is_not_repeated(loaded: LoadedModel) -> None:
    with speaking(loaded, loaded.tokenizer("é!").input_ids):
        found = generate(loaded, "日本", loaded.empty(), tokens=3, baseline=False)
    assert found.text == "é!"


def test_the_models_own_sampling_and_penalties_do_not_count(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = uncached(loaded, "1", 24)
    ids = prompt_ids(loaded)
    before = loaded.model.generation_config
    loaded.model.generation_config = GenerationConfig(
        eos_token_id=before.eos_token_id,
        pad_token_id=before.pad_token_id,
        do_sample=True,
        temperature=0.3,
        top_k=5,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=50.0,
        no_repeat_ngram_size=1,
        num_beams=3,
    )
    with muted(loaded, loaded.mask("1")):
        out = asked(loaded, ids)
    assert loaded.tokenizer.decode(out[0, ids.shape[1] :]) != expected  # they would count
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    try:
        found = generate(loaded, PROMPT, loaded.mask("1"), tokens=24)
    finally:
        log.removeHandler(caplog.handler)
        loaded.model.generation_config = before
    assert found.text == expected
    assert not caplog.records


def test_without_a_padding_token_nothing_warns(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    loaded = load("tiny:llama", dtype="fp32")
    loaded.tokenizer.pad_token = None
    loaded.model.generation_config.pad_token_id = None
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    try:
        generate(loaded, PROMPT, loaded.mask("1"), tokens=4)
    finally:
        log.removeHandler(caplog.handler)
    assert not caplog.records
    assert not recwarn.list


def test_a_chat_goes_through_the_template() -> None:
    loaded = load("tiny:llama", dtype="fp32")
    loaded.tokenizer.chat_template = (
        "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %}<answer>{% endif %}"
    )
    mask = loaded.mask("1")
    found = generate(loaded, "{{ 7 * 7 }}?", mask, tokens=12, chat=True)
    written = generate(loaded, "<user>{{ 7 * 7 }}?<answer>", mask, tokens=12)
    assert found.text == written.text
    assert found.baseline_text == written.baseline_text
    assert found.prompt == "{{ 7 * 7 }}?"


def test_it_survives_being_saved(loaded: LoadedModel) -> None:
    found = generate(loaded, PROMPT, loaded.mask("1"), tokens=6)
    assert from_json(found.to_json()).to_json() == found.to_json()


def says(call: Callable[[], Any]) -> str:
    with pytest.raises(InspectorError) as caught:
        call()
    return str(caught.value)


def test_an_empty_prompt_is_refused(loaded: LoadedModel) -> None:
    said = says(lambda: generate(loaded, "", loaded.empty()))
    assert said == "the prompt is empty: write what the model is to continue."


def test_half_a_surrogate_pair_is_refused(loaded: LoadedModel) -> None:
    said = says(lambda: generate(loaded, "ab\ud800", loaded.empty()))
    assert said == "the prompt has half a surrogate pair at character 2: remove it."


def test_a_prompt_without_tokens_is_refused() -> None:
    loaded = load("tiny:llama", dtype="fp32")
    with replaced_tokenizer(loaded):
        said = says(lambda: generate(loaded, "\u200b", loaded.empty()))
    assert said.startswith("the prompt has no token with this model's tokenizer")


@contextmanager
def replaced_tokenizer(loaded: LoadedModel):
    """A tokenizer whose normaliser leaves nothing of a zero-width space."""
    from tokenizers import normalizers

    backend = loaded.tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace("\u200b", "")
    yield


@pytest.mark.parametrize("tokens", [0, -3])
def test_fewer_than_one_token_is_refused(loaded: LoadedModel, tokens: int) -> None:
    said = says(lambda: generate(loaded, PROMPT, loaded.empty(), tokens=tokens))
    assert said == f"cannot write {tokens} tokens: ask for 1 or more."


def test_what_does_not_fit_the_window_is_refused_with_the_numbers(loaded: LoadedModel) -> None:
    assert loaded.max_length == 512
    said = says(lambda: generate(loaded, "x" * 500, loaded.empty(), tokens=13))
    assert said == (
        "a prompt of 500 tokens and 13 new ones make 513, more than the 512 that this model takes: "
        "ask for 12 tokens or fewer, or shorten the prompt."
    )
    said = says(lambda: generate(loaded, "x" * 600, loaded.empty(), tokens=13))
    assert said.endswith("the 512 that this model takes: shorten the prompt.")
    assert generate(loaded, "x" * 500, loaded.empty(), tokens=12).tokens > 0


def test_a_chat_without_a_template_is_refused(loaded: LoadedModel) -> None:
    said = says(lambda: generate(loaded, PROMPT, loaded.empty(), chat=True))
    assert said == "tiny:llama has no chat template: leave chat off and write the whole prompt."


def test_a_template_that_refuses_is_reported() -> None:
    loaded = load("tiny:llama", dtype="fp32")
    loaded.tokenizer.chat_template = "{{ raise_exception('only the system may speak') }}"
    said = says(lambda: generate(loaded, PROMPT, loaded.empty(), chat=True))
    assert "the chat template of tiny:llama cannot take the prompt" in said
    assert "only the system may speak" in said


def test_a_mask_for_another_depth_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(MaskError):
        generate(loaded, PROMPT, Mask(30))


def test_running_out_of_memory_names_the_levers(loaded: LoadedModel) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with replaced(loaded.layers[2], full), pytest.raises(OutOfMemory) as caught:
        generate(loaded, "x" * 30, loaded.mask("1"), tokens=8)
    said = str(caught.value)
    assert "a prompt of 30 tokens and 8 new ones, a batch of one" in said
    assert "--tokens" in said
    assert "--dtype bf16" in said
    assert not any("forward" in module.__dict__ for module in loaded.model.modules())


def test_errors_of_the_program_are_not_taken_for_the_users(loaded: LoadedModel) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes do not match")

    with (
        replaced(loaded.layers[2], broken),
        pytest.raises(RuntimeError, match="shapes do not match"),
    ):
        generate(loaded, PROMPT, loaded.empty(), tokens=4)
