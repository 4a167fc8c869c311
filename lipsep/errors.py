"""Errors for people: each message says what was found, what was needed and what to do next, in one line."""


class LipsepError(Exception):
    """Base of every error that lipsep raises on purpose; the command line prints it as one line and exits with 1."""


class MediaError(LipsepError):
    """A file cannot be read, decoded or written as audio or video."""


class FaceError(LipsepError):
    """Nobody usable is visible, or the request about faces cannot be met."""


class ModelError(LipsepError):
    """Unknown model, unknown configuration key, or inputs that a model cannot take."""


class WeightsError(ModelError):
    """A weight file is missing, damaged, unsafe, or belongs to another model."""


class OutputError(LipsepError):
    """A result cannot be written: the folder is read-only, the disk is full, or finished work would be lost."""
