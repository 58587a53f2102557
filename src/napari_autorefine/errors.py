"""Errors a user can act on: one sentence that says what is wrong, where, and what to do."""

_LONGEST = 4000


class InputError(ValueError):
    """The user's input cannot be used; the text is shown as it is and the exit status is 2.

    The text quotes names and values of files, so that what no terminal or window takes (halves of characters, control
    codes) is replaced by ``?``, and the middle of very long ones is left out.
    """

    def __init__(self, text: str) -> None:
        line = " ".join(text.splitlines())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 4 :]}"
        super().__init__("".join(one if one.isprintable() else "?" for one in line))
