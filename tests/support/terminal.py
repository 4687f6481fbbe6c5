"""A small terminal: what is on its lines after a program wrote to it."""

import re

_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


def lines_of(written: str, width: int) -> list[str]:
    """The lines, scrolled ones included, without trailing blanks.

    Knows what progress displays write: line feed, carriage return, up, erase line, colours; lines
    that are too long wrap.
    """
    lines, row, column, position = [""], 0, 0, 0
    while position < len(written):
        sequence = _SEQUENCE.match(written, position)
        if sequence:
            count, kind = sequence.groups()
            if kind == "A":
                row = max(0, row - int(count or 1))
            elif kind == "K":
                lines[row] = "" if count == "2" else lines[row][:column]
            elif kind not in "mhl":
                raise AssertionError(f"unexpected {sequence.group()!r}")
            position = sequence.end()
            continue
        character = written[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
        else:
            if column == width:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append("")
            line = lines[row].ljust(column)
            lines[row] = line[:column] + character + line[column + 1 :]
            column += 1
        while len(lines) <= row:
            lines.append("")
    return [line.rstrip() for line in lines]
