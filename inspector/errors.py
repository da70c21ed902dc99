"""What can go wrong for a user: one clear sentence each, with the next step.

Anything else that is raised is a bug and is meant to crash with a traceback.
"""


class InspectorError(Exception):
    """A mistake of the user's, or a limit of the machine, said in one sentence with a next step.

    The command line prints it on one line and exits with 2; the page shows it and loses nothing.
    """


class MaskError(InspectorError):
    """A mask that cannot be read, is out of range, or belongs to another depth or model."""


class LoadError(InspectorError):
    """A model that cannot be found, read, supported or fitted."""


class CorpusError(InspectorError):
    """A text to measure on that is missing, malformed or too short."""


class TaskError(InspectorError):
    """A benchmark task that is unknown, malformed or empty."""


class ResultError(InspectorError):
    """A saved result that cannot be read, or a method or metric that does not exist."""


class ExportError(InspectorError):
    """An export that cannot be made of this model and mask, written, or shown to be right."""


class OutOfMemory(InspectorError):
    """The machine ran out of memory; names batch, length and dtype as the levers."""


class RankError(InspectorError):
    """Another process of a run of several has stopped, differs, or cannot be reached."""
