"""``python -m ssd34`` is the ``ssd34`` command."""

from ssd34.cli.app import main

if __name__ == "__main__":
    main()
