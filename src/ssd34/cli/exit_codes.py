"""Exit codes that several commands have; what they mean to a user: docs/commands.md."""

PARTLY = 1
"""Something had to be left out, and the rest was done."""

INTERRUPTED = 130
