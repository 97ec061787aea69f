"""`dvidzarr` whose small writes all run on threads, never on the event loop: what `onloop` compares with."""

from dvidzarr.cli.main import main
from dvidzarr.server import batching

if __name__ == "__main__":
    batching._QUICK_S = 0
    main()
