"""Errors a user can act on: one sentence that says what is wrong, where, and what to do."""


class InputError(ValueError):
    """The user's input cannot be used; the text is shown as it is and the exit status is 2."""
