"""The command line: the only place that prints and sets exit codes."""

PARTLY = 1
"""Something had to be left out, and the rest was done."""

INTERRUPTED = 130
