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
from inspector.measure.generation import EVERY, generate
from inspector.measure.pen import Pen, compared, parting
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.surgery import muted, replaced
from inspector.model.tiny import tiny_tokenizer
from inspector.results.checks import Continuation, Generation
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
    def partials(self) -> list[Continuation]:
        return [only(partial) for *_, partial in self if partial is not None]


def only(found: Generation) -> Continuation:
    """The one continuation of one prompt."""
    (one,) = found.continuations
    return one


def write(*args: Any, **more: Any) -> Continuation:
    """`generate` of one prompt."""
    return only(generate(*args, **more))


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

    whole = generate(loaded, PROMPT, loaded.mask(mask), tokens=24)
    found = only(whole)
    assert (found.text, found.tokens) == plain(mask)
    assert (found.baseline_text, found.baseline_tokens) == plain("")
    assert whole.mask == mask
    assert found.prompt == PROMPT
    assert whole.provenance.source == "tiny:llama"
    assert whole.provenance.seconds > 0


def test_a_mask_changes_the_text(loaded: LoadedModel) -> None:
    found = write(loaded, PROMPT, loaded.mask("1,3.ffn"), tokens=24)
    assert found.text != found.baseline_text


@pytest.mark.parametrize("mask", ["0.attn", "0-3.attn", "2", "0-3"])
def test_with_the_cache_it_is_what_whole_forwards_give(family: LoadedModel, mask: str) -> None:
    # 40 tokens: the sliding layers of tiny gemma2 see 16.
    found = write(family, PROMPT, family.mask(mask), tokens=40)
    assert found.text == uncached(family, mask, 40)
    assert found.baseline_text == uncached(family, "", 40)


@pytest.mark.parametrize("mask", ["", "1.attn"])
def test_partial_texts_only_ever_grow(loaded: LoadedModel, mask: str) -> None:
    heard = Heard()
    found = write(loaded, PROMPT, loaded.mask(mask), tokens=30, progress=heard)
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
    notes = {at: {each[2] for each in heard if each[0] == at} for at in (5, 15)}
    assert notes == {5: {"the edited model writes"}, 15: {"the untouched model writes"}}


def test_nothing_muted_is_computed_once(loaded: LoadedModel) -> None:
    heard = Heard()
    found = write(loaded, PROMPT, loaded.empty(), tokens=10, progress=heard)
    assert found.text == found.baseline_text != ""
    assert found.tokens == found.baseline_tokens == 10
    assert {total for _, total, *_ in heard} == {10}


def test_without_a_baseline_its_text_is_empty(loaded: LoadedModel) -> None:
    for mask in ("", "1"):
        heard = Heard()
        found = write(loaded, PROMPT, loaded.mask(mask), tokens=8, baseline=False, progress=heard)
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
        found = write(loaded, PROMPT, loaded.empty(), tokens=16, baseline=False, progress=heard)
    assert (found.text, found.tokens) == ("abcde", 5)
    assert heard[-1][:2] == (16, 16)


@pytest.mark.parametrize("text", ["Größe: 5 µm²", "日本語", "ab😀👩‍💻c", "e\u0301ñ"])
def test_no_partial_text_breaks_off_inside_a_character(loaded: LoadedModel, text: str) -> None:
    ids = loaded.tokenizer(text).input_ids
    assert len(ids) == len(text.encode()) > len(text)  # one token a byte
    heard = Heard()
    with speaking(loaded, ids):
        found = write(
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
        found = write(loaded, "日本", loaded.empty(), tokens=3, baseline=False)
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
        found = write(loaded, PROMPT, loaded.mask("1"), tokens=24)
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
    found = write(loaded, "{{ 7 * 7 }}?", mask, tokens=12, chat=True)
    written = write(loaded, "<user>{{ 7 * 7 }}?<answer>", mask, tokens=12)
    assert found.text == written.text
    assert found.baseline_text == written.baseline_text
    assert found.prompt == "{{ 7 * 7 }}?"


def test_it_survives_being_saved(loaded: LoadedModel) -> None:
    found = generate(loaded, [PROMPT, "x"], loaded.mask("1"), tokens=6, temperature=0.5, seed=3)
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
    assert write(loaded, "x" * 500, loaded.empty(), tokens=12).tokens > 0


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


# ---- drawn tokens, several prompts, and where two texts part -------------------------------------

DRAWN: dict[str, Any] = {"tokens": 20, "temperature": 0.9}


def test_drawn_texts_are_the_same_again_and_others_with_another_seed(loaded: LoadedModel) -> None:
    mask = loaded.mask("1")
    first = generate(loaded, PROMPT, mask, **DRAWN, seed=5)
    torch.manual_seed(99)  # whatever was drawn before
    again = generate(loaded, PROMPT, mask, **DRAWN, seed=5)
    assert again.continuations == first.continuations
    other = generate(loaded, PROMPT, mask, **DRAWN, seed=6)
    assert only(other).text != only(first).text
    assert only(other).baseline_text != only(first).baseline_text
    assert (first.temperature, first.top_p, first.seed) == (0.9, 1.0, 5)
    assert (first.provenance.seed, generate(loaded, "x", mask).provenance.seed) == (5, None)


def test_drawing_leaves_the_random_state_alone(loaded: LoadedModel) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    generate(loaded, PROMPT, loaded.mask("1"), **DRAWN)
    assert torch.equal(torch.rand(3), expected)


def test_both_models_draw_after_the_same_seed(loaded: LoadedModel) -> None:
    edited = write(loaded, PROMPT, loaded.mask("1"), **DRAWN, seed=2)
    alone = write(loaded, PROMPT, loaded.empty(), **DRAWN, seed=2)
    assert edited.baseline_text == alone.text
    assert edited.text != alone.text


@torch.no_grad()
def test_tokens_are_drawn_from_the_nucleus_of_the_models_own_distribution(
    loaded: LoadedModel,
) -> None:
    """By the definition: sorted probabilities until they sum to top-p, the one that crosses in."""
    ids = prompt_ids(loaded)
    logits = loaded.model(ids).logits[0, -1].double()
    probability, order = (logits / 0.5).softmax(-1).sort(descending=True)
    inside = probability.cumsum(0) - probability < 0.4
    allowed = {loaded.tokenizer.decode([each]) for each in order[inside].tolist()}
    assert len(allowed) == 4
    seen = {
        write(
            loaded, PROMPT, loaded.empty(), tokens=1, temperature=0.5, top_p=0.4, seed=seed
        ).text.rstrip("\N{REPLACEMENT CHARACTER}")
        for seed in range(40)
    }
    assert len(seen) > 1
    assert seen <= {each.rstrip("\N{REPLACEMENT CHARACTER}") for each in allowed}


def test_the_coolest_is_the_most_likely(loaded: LoadedModel) -> None:
    cool = write(loaded, PROMPT, loaded.empty(), tokens=12, temperature=0.01)
    assert cool.text == write(loaded, PROMPT, loaded.empty(), tokens=12).text


def test_several_prompts_are_each_continued_by_themselves(loaded: LoadedModel) -> None:
    prompts = [PROMPT, "x", "two\nlines"]
    heard = Heard()
    mask = loaded.mask("1")
    found = generate(loaded, prompts, mask, tokens=9, progress=heard)
    assert [each.prompt for each in found.continuations] == prompts
    for prompt, one in zip(prompts, found.continuations, strict=True):
        assert one == write(loaded, prompt, mask, tokens=9)
    done = [each[0] for each in heard]
    assert done == sorted(done) and done[-1] == heard[0][1] == 3 * 2 * 9
    counts = [len(partial.continuations) for *_, partial in heard if partial is not None]
    assert counts == sorted(counts) and set(counts) == {1, 2, 3}


def test_the_first_token_in_which_they_part(loaded: LoadedModel) -> None:
    """With the head saying what is wanted: four tokens alike, then not."""
    letters = loaded.tokenizer("abcdXYabcdxy").input_ids
    with speaking(loaded, letters):
        found = write(loaded, PROMPT, loaded.mask("1"), tokens=6)
    assert (found.text, found.baseline_text) == ("abcdXY", "abcdxy")
    assert (found.parted, found.shared, found.same) == (4, 4, False)


def test_they_part_where_one_of_them_ends(loaded: LoadedModel) -> None:
    letters, end = loaded.tokenizer("abc").input_ids, loaded.tokenizer.eos_token_id
    with speaking(loaded, [*letters, end, *letters, *letters]):
        found = write(loaded, PROMPT, loaded.mask("1"), tokens=6)
    assert (found.text, found.baseline_text) == ("abc", "abcabc")
    assert (found.parted, found.shared) == (3, 3)
    with speaking(loaded, [*letters, end, *letters, end]):
        found = write(loaded, PROMPT, loaded.mask("1"), tokens=6)
    assert (found.parted, found.shared, found.same) == (None, 3, True)


def test_they_part_inside_a_character_and_share_the_whole_ones(loaded: LoadedModel) -> None:
    one, other = (loaded.tokenizer(text).input_ids for text in ("aé", "aê"))
    assert one[:2] == other[:2] and len(one) == 3  # the first byte of both
    with speaking(loaded, [*one, *other]):
        found = write(loaded, PROMPT, loaded.mask("1"), tokens=3)
    assert (found.text, found.baseline_text) == ("aé", "aê")
    assert (found.parted, found.shared) == (2, 1)


def test_what_they_share_ends_with_a_token_not_with_a_letter() -> None:
    class Words:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(("the", " cat", " car", " sat")[each] for each in ids)

    here, there = Pen(Words(), [], set()), Pen(Words(), [], set())
    here.add([0, 1, 3])
    there.add([0, 2, 3])
    found = compared("x", here, there)
    assert (found.text, found.baseline_text) == ("the cat sat", "the car sat")
    assert (found.parted, found.shared) == (1, len("the"))


def test_until_both_have_ended_only_what_differs_parts() -> None:
    assert parting([1, 2, 3], [1, 2], ended=False) is None
    assert parting([1, 2, 3], [1, 2], ended=True) == 2
    assert parting([1, 2, 3], [1, 4], ended=False) == 1
    assert parting([1, 2], [1, 2], ended=True) is None


def test_old_files_are_read(loaded: LoadedModel) -> None:
    data = generate(loaded, "x", loaded.mask("1"), tokens=2).to_json()
    for name in ("continuations", "temperature", "top_p", "seed"):
        del data[name]
    old = {"prompt": "a", "text": "b", "baseline_text": "c", "tokens": 1, "baseline_tokens": 2}
    found = from_json({**data, **old})
    assert isinstance(found, Generation)
    assert only(found) == Continuation("a", "b", "c", 1, 2)
    assert (only(found).parted, only(found).same, found.temperature) == (None, False, None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 0}, "a temperature of 0 is out of range: give 0.01 to 100, or none"),
        ({"temperature": -1.5}, "a temperature of -1.5 is out of range"),
        ({"temperature": float("nan")}, "a temperature of nan is out of range"),
        ({"temperature": float("inf")}, "a temperature of inf is out of range"),
        ({"temperature": 1, "top_p": 0}, "a top-p of 0 is out of range: above 0, and 1 at most."),
        ({"temperature": 1, "top_p": 1.1}, "a top-p of 1.1 is out of range"),
        ({"top_p": 0.5}, "top-p needs a temperature: without one nothing is drawn."),
        ({"temperature": 1, "seed": -1}, "a seed of -1 is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(
    loaded: LoadedModel, settings: dict[str, Any], sentence: str
) -> None:
    assert says(lambda: generate(loaded, "x", loaded.empty(), **settings)).startswith(sentence)


def test_of_several_prompts_the_one_that_is_wrong_is_named(loaded: LoadedModel) -> None:
    heard = Heard()
    prompts = ["x", "", "y"]
    said = says(lambda: generate(loaded, prompts, loaded.empty(), progress=heard))
    assert said == "prompt 2: the prompt is empty: write what the model is to continue."
    said = says(lambda: generate(loaded, ["x", "x" * 600], loaded.empty(), progress=heard))
    assert said.startswith("prompt 2: a prompt of 600 tokens and 64 new ones make 664")
    assert says(lambda: generate(loaded, [], loaded.empty())).startswith("the prompt is empty")
    assert heard == []  # nothing was written before


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_scores_that_are_no_numbers_are_reported(
    loaded: LoadedModel, temperature: float | None
) -> None:
    def head(stream: torch.Tensor) -> torch.Tensor:
        return torch.full((*stream.shape[:-1], 259), float("nan"))

    lm_head: Any = loaded.model.lm_head
    with replaced(lm_head, head):
        said = says(lambda: generate(loaded, "x", loaded.empty(), temperature=temperature))
    assert said == "the model's scores are no numbers (NaN): load it with --dtype fp32."
