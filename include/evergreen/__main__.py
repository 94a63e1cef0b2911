"""``python -m evergreen``: what runs inside a pod."""

from evergreen.cli import main

if __name__ == "__main__":
    main()
