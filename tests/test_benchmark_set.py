"""The form of assets/benchmark.jsonl: whatever a model scores on it must come from the words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@pytest.fixture(scope="module")
def items() -> list[dict]:
    lines = (ASSETS / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def chance(items: list[dict]) -> float:
    return sum(1 / len(item["choices"]) for item in items) / len(items)


def accuracy_by_length(items: list[dict], best: Callable[..., int]) -> float:
    """How often the choice of the best length is right; ties count by their share."""
    right = 0.0
    for item in items:
        lengths = [len(choice) for choice in item["choices"]]
        tied = [at for at, length in enumerate(lengths) if length == best(lengths)]
        right += (item["gold"] in tied) / len(tied)
    return right / len(items)


def test_every_item_has_the_fields_and_nothing_else(items):
    assert len(items) >= 120
    for item in items:
        assert list(item) == ["id", "category", "query", "choices", "gold"]
        assert re.fullmatch(rf"{item['category']}-\d\d", item["id"])
        assert isinstance(item["query"], str)
        assert all(isinstance(choice, str) for choice in item["choices"])
        assert len(item["choices"]) in (3, 4)
        assert type(item["gold"]) is int
        assert 0 <= item["gold"] < len(item["choices"])


def test_ids_and_queries_are_unique_and_so_are_the_choices_of_an_item(items):
    assert len({item["id"] for item in items}) == len(items)
    assert len({item["query"].casefold() for item in items}) == len(items)
    for item in items:
        assert len({choice.casefold() for choice in item["choices"]}) == len(item["choices"])


def test_text_is_clean_so_that_one_space_joins_query_and_choice(items):
    for item in items:
        for text in (item["query"], *item["choices"]):
            assert text
            assert text == text.strip()
            assert "  " not in text
            assert text.isprintable()


@pytest.mark.parametrize("count", [3, 4])
def test_gold_positions_are_balanced(items, count):
    golds = Counter(item["gold"] for item in items if len(item["choices"]) == count)
    assert set(golds) == set(range(count))
    assert max(golds.values()) - min(golds.values()) <= 1


def test_always_answering_one_position_gives_chance(items):
    for position in range(4):
        right = sum(item["gold"] == position for item in items) / len(items)
        assert abs(right - chance(items)) < 0.03


@pytest.mark.parametrize("best", [max, min], ids=["longest", "shortest"])
def test_length_does_not_give_the_answer_away(items, best):
    assert abs(accuracy_by_length(items, best) - chance(items)) < 0.05


def test_right_and_wrong_choices_are_of_like_length(items):
    right = [len(item["choices"][item["gold"]]) for item in items]
    wrong = [
        len(choice)
        for item in items
        for at, choice in enumerate(item["choices"])
        if at != item["gold"]
    ]
    assert abs(sum(right) / len(right) - sum(wrong) / len(wrong)) < 0.5


def test_the_note_beside_it_counts_right(items):
    note = (ASSETS / "benchmark.md").read_text(encoding="utf-8")
    assert f"{len(items)} items" in note
    for category, count in Counter(item["category"] for item in items).items():
        assert re.search(rf"^\| {category} \| {count} \|", note, re.MULTILINE), category
    assert "Apache-2.0" in note
