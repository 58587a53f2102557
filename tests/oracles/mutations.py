"""Damaged files made from good ones: of text, lines and words change; of MRC files, words of the header and bytes."""

from __future__ import annotations

import random
import struct

_NUMBERS = """
0 -1 1 2 3 1e9 1000000000 999999999999 9223372036854775807 -9223372036854775808 99999999999999999999 1e308 -1e308
1e-320 nan -nan inf -inf 0.1 1_000 0012 0x10 ٣ ² None True <NA> [ ] [] [1,2 [0,0,0,0,0] [1,1,1,1,1,1,1] [nan,0,0,1]
"""
_NAMES = """
000000@a.mrcs 000007@a.mrcs 1000000000@a.mrcs 99999999999999999999@a.mrcs @ 1@ -1@a.mrcs . .. ../../outside
../../../outside.mrc /outside/deep a//b ./a.mrcs /dev/zero /dev/null C:\\outside T C0 C99999 D-1 I9
"""
_SYNTAX = """
x ' " '' "" ; # _ data_ data_particles data_optics data_global loop_ _rlnImageName _rlnOpticsGroup #1 version 50001 é
\ud800 \x7f \x1b[31m \u202e {} %s $HOME `id` __import__('os').system('false')
"""
_LABELS = """
rlnImageName rlnMicrographName rlnOpticsGroup rlnImageSize rlnImagePixelSize rlnVoltage rlnRandomSubset rlnTomoName
rlnTomoVisibleFrames rlnMagnification rlnDetectorPixelSize rlnImageDimensionality rlnCtfImage rlnOddZernike
rlnGroupName rlnTomoSubTomosAre2DStacks rlnSpectralIndex
"""
WORDS = (*_NUMBERS.split(), *_NAMES.split(), *_SYNTAX.split(), "a" * 5000)
LABELS = _LABELS.split()
_INTEGERS = (0, 1, -1, 2, 3, 4, 6, 7, 12, 101, 255, 1000, 65536, 999_999, 2**20, 2**24, 2**31 - 1, -(2**31), 1024)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"), 1.0)


def mutated(data: bytes, kind: str, dice: random.Random) -> bytes:
    """Return a damaged copy of a file of a kind: ``text``, ``json`` or ``mrc``."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        if kind == "mrc" and dice.random() < 0.7:
            data = _header(data, dice)
        elif kind != "mrc" and dice.random() < 0.85:
            data = _text(data, dice)
        else:
            data = _bytes(data, dice)
    return data


def _header(data: bytes, dice: random.Random) -> bytes:
    """Change one of the words of an MRC header that mean something."""
    word = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 22, 23, 24, 49, 50, 51, 52, 53, 55))
    is_float = word in {10, 11, 12, 49, 50, 51} and dice.random() < 0.7
    order = dice.choice("<<<>")
    new = (
        struct.pack(f"{order}f", dice.choice(_FLOATS)) if is_float else struct.pack(f"{order}i", dice.choice(_INTEGERS))
    )
    return data[: 4 * word] + new + data[4 * word + 4 :]


def _bytes(data: bytes, dice: random.Random) -> bytes:
    """Cut, repeat, insert or change bytes anywhere."""
    if not data:
        return b"\0"
    start = dice.randrange(len(data))
    end = min(len(data), start + dice.choice((1, 2, 4, 16, 300, len(data))))
    match dice.randrange(6):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:end] + data[end:]
        case 3:
            return data[:start] + dice.randbytes(end - start if end - start < 64 else 64) + data[end:]
        case 4:
            return data[:start] + bytes([data[start] ^ (1 << dice.randrange(8))]) + data[start + 1 :]
        case _:
            return data + dice.randbytes(dice.choice((1, 100, 5000)))


def _text(data: bytes, dice: random.Random) -> bytes:
    """Change a word, a line or a label of a text."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    row = dice.randrange(len(lines))
    other = dice.randrange(len(lines))
    match dice.randrange(9):
        case 0 | 1 | 2 | 3:
            lines[row] = _word_changed(lines[row], dice)
        case 4:
            del lines[row]
        case 5:
            lines.insert(row, lines[other])
        case 6:
            lines[row], lines[other] = lines[other], lines[row]
        case 7:
            lines = _label_changed(lines, dice)
        case _:
            lines.insert(row, dice.choice(WORDS))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _word_changed(line: str, dice: random.Random) -> str:
    separator = "," if line.count(",") > line.count(" ") else " "
    words = line.split(separator)
    place = dice.randrange(len(words))
    match dice.randrange(4):
        case 0 | 1:
            words[place] = dice.choice(WORDS[:-1])
        case 2:
            words.insert(place, dice.choice(WORDS))
        case _:
            del words[place]
    return separator.join(words)


def _label_changed(lines: list[str], dice: random.Random) -> list[str]:
    places = [row for row, line in enumerate(lines) if line.startswith("_")]
    if places:
        row = dice.choice(places)
        lines[row] = lines[row].replace(lines[row].split(" ")[0], f"_{dice.choice(LABELS)}", 1)
    return lines
