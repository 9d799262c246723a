"""The root of every error that a user can cause and mend."""


class StoryError(ValueError):
    """Something given from outside cannot be used; one line says what was given, what was expected and what to do.

    The command line prints it without a traceback; every other exception is a fault of the program and keeps its own.
    """
