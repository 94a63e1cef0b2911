"""``python -m evergreen_laptop``: the ``evergreen`` command."""

from evergreen_laptop.cli import main

main()
