"""The root of every error that a user can cause and mend."""


class StoryError(ValueError):
    """Something given from outside cannot be used. The message is one line: what was given, what was expected, what to do.

    The command line prints it without a traceback; every other exception is a fault of the program and keeps its own.
    """
