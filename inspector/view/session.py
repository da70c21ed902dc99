"""What one open page holds: its mask and its way back, its results, its jobs."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import Any

from inspector.errors import InspectorError
from inspector.jobs import Job
from inspector.results.base import Result
from inspector.results.checks import Generation, Untouched
from inspector.results.comparison import Comparison
from inspector.results.scores import Scores, Similarity
from inspector.results.trajectory import Trajectory
from inspector.units import Mask
from inspector.view.card import Card

UNDO, HISTORY, UPLOADED = 200, 200, 20
"""The most masks, rows of the history and uploaded results that are kept."""
SECTIONS = (
    "map",
    "mask",
    "live",
    "model",
    "similarity",
    "sweep",
    "pruning",
    "check",
    "export",
    "runs",
    "comparison",
)
"""The parts of the page that are redrawn when something in them has changed."""
KEPT = (
    "card",
    "generation",
    "mask",
    "undone",
    "done",
    "colour",
    "results",
    "uploaded",
    "step",
    "history",
    "baselines",
    "jobs",
    "born",
    "taken",
    "errors",
    "looks",
    "comparison",
)
"""What a reloaded page has back."""


@dataclass
class Session:
    """One browser page. Every change is a method here and marks the sections it touches."""

    id: str
    tab: str = ""  # the secret of the browser tab that it is shown in
    card: Card | None = None
    generation: int = 0  # which load of the server's this page is on; 0 is none
    mask: Mask | None = None
    clicks: int = 0  # how many switches of the layer map the mask takes in
    drawings: int = 0  # of the layer map, so that the browser can tell an older one
    written: str | None = None  # what the page's text box of the mask was last given
    undone: list[Mask] = field(default_factory=list)
    done: list[Mask] = field(default_factory=list)
    colour: str = ""
    results: dict[str, Result] = field(default_factory=dict)
    uploaded: dict[str, Result] = field(default_factory=dict)  # by the name it is listed under
    step: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    live: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Untouched] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    born: dict[str, int] = field(default_factory=dict)  # kind of job to the load it was started on
    taken: dict[str, int] = field(default_factory=dict)  # kind of job to the version last looked at
    errors: dict[str, str] = field(default_factory=dict)
    own_runs: list[str] = field(default_factory=list)
    looks: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # a tab's choices of what to draw
    comparison: Comparison | None = None
    closed: bool = False
    changed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 1))
    shown: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    sized: tuple[Any, ...] = ()  # what the sidebar was last asked the size of
    last_status: tuple[str, bool] | None = None
    server: int = 0  # the server's load that this page has last been told of
    lock: threading.RLock = field(default_factory=threading.RLock)

    def touch(self, *sections: str) -> None:
        """Mark sections as in need of redrawing."""
        for section in sections:
            self.changed[section] += 1

    def news(self, section: str) -> bool:
        """Whether a section has changed since it was last asked; asking takes note."""
        fresh = self.changed[section] != self.shown[section]
        self.shown[section] = self.changed[section]
        return fresh

    def require_card(self) -> Card:
        """The model's card.

        Raises:
            InspectorError: no model is on the page.
        """
        if self.card is None:
            raise InspectorError("no model is loaded yet: press Load model first.")
        return self.card

    def require_mask(self) -> Mask:
        """The mask; empty at first."""
        card = self.require_card()
        return self.mask if self.mask is not None else Mask(card.depth)

    def set_mask(self, mask: Mask) -> None:
        """Change the mask; the one before can be had back with `undo`."""
        mask = self.require_card().check(mask)
        before = self.require_mask()
        if mask != before:
            self.done = [*self.done, before][-UNDO:]
            self.undone = []
            self.mask = mask
        self.touch("mask", "map", "live")

    def undo(self) -> None:
        """The mask before the last change; nothing where there is none."""
        self._move(self.done, self.undone)

    def redo(self) -> None:
        """The mask that was last undone; nothing where there is none."""
        self._move(self.undone, self.done)

    def _move(self, back: list[Mask], forth: list[Mask]) -> None:
        if back:
            forth.append(self.require_mask())
            self.mask = back.pop()
        self.touch("mask", "map", "live")

    def attach(self, card: Card, generation: int) -> None:
        """Put a model on the page; the mask stays where the depth allows."""
        same = card.same_model(self.card)
        if self.mask is None or not card.takes(self.mask):
            self.mask, self.done, self.undone = Mask(card.depth), [], []
        self.done = [mask for mask in self.done if card.takes(mask)]
        self.undone = [mask for mask in self.undone if card.takes(mask)]
        if not same:
            self.results, self.step, self.live, self.history = {}, None, {}, []
        self.baselines = {}
        self.card, self.generation = card, generation
        self.errors = {}
        self.touch(*SECTIONS)

    def add_upload(self, name: str, run: Result) -> None:
        """List an uploaded result beside the saved ones, for as long as the page is kept.

        The same is listed once; another one of that name gets a number. The oldest goes
        when there are too many.
        """

        def content(of: Result) -> Any:
            if not isinstance(of, Trajectory):
                return of.dumps()
            # Another tool's order is read at another time whenever it is dropped.
            return [of.method, *((step.mask, str(step.perplexity)) for step in of.steps)]

        listed, number = name, 1
        while listed in self.uploaded and content(self.uploaded[listed]) != content(run):
            number += 1
            listed = f"{name} ({number})"
        others = [each for each in self.uploaded.items() if each[0] != listed]
        self.uploaded = dict([*others, (listed, run)][-UPLOADED:])
        self.touch("runs")

    def inherit(self, before: Session) -> None:
        """Take over what a page of the same browser tab held before it was reloaded."""
        for name in KEPT:
            setattr(self, name, copy.copy(getattr(before, name)))
        self.own_runs = before.own_runs  # one list: a job that goes on adds to it
        self.live = {key: value for key, value in before.live.items() if key == "result"}
        self.jobs.pop("live", None)
        for job in self.jobs.values():
            job.owner = self.id
        self.touch(*SECTIONS)

    @property
    def similarity(self) -> Similarity | None:
        """The similarity on the page."""
        found = self.results.get("similarity")
        return found if isinstance(found, Similarity) else None

    @property
    def scores(self) -> Scores | None:
        """The sweep on the page."""
        found = self.results.get("sweep")
        return found if isinstance(found, Scores) else None

    @property
    def trajectory(self) -> Trajectory | None:
        """The pruning run on the page."""
        found = self.results.get("pruning")
        return found if isinstance(found, Trajectory) else None

    @property
    def generated(self) -> Generation | None:
        """The last generation."""
        found = self.results.get("generation")
        return found if isinstance(found, Generation) else None
