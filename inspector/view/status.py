"""What is going on, in words and a bar: one line a job, with the time that is left."""

from __future__ import annotations

from html import escape

from inspector.jobs import Job
from inspector.view.session import Session
from inspector.view.workbench import Workbench


def status_html(bench: Workbench, session: Session) -> str:
    """The jobs of this page that are under way, and the errors of those that failed."""
    lines = [_line(bench, job) for job in active(session)]
    errors = [
        f'<p class="job-error" role="alert">{escape(text[:1].upper() + text[1:])}</p>'
        for kind, text in list(session.errors.items())  # the worker may add one
        if text and kind != "live"
    ]
    return "".join([*lines, *errors])


def active(session: Session) -> list[Job]:
    """The jobs of this page that are queued or running, without the live perplexity."""
    return [job for kind, job in list(session.jobs.items()) if job.active and kind != "live"]


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _line(bench: Workbench, job: Job) -> str:
    if job.state == "queued":
        ahead = bench.worker.ahead_of(job)
        words, share = (f"waiting for {ahead} other job{'s' if ahead != 1 else ''}", 0.0)
    else:
        left = job.seconds_left
        words = job.note + (f" · about {duration(left)} left" if left is not None else "")
        share = min(1.0, job.done / job.total if job.total else 0.0)
    percent = f"{100 * share:.0f}"
    return (
        f'<div class="job"><div class="job-words"><strong>{escape(job.title)}</strong> '
        f"<span>{escape(words)}</span></div>"
        f'<div class="job-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{escape(job.title)}">'
        f'<div style="width: {percent}%"></div></div></div>'
    )
