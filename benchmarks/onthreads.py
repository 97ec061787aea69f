"""`dvidzarr` whose requests all run on threads, never on the event loop: what `onloop` compares with."""

from dvidzarr.cli.main import main
from dvidzarr.server import turns

if __name__ == "__main__":
    turns._QUICK_S = 0
    main()
