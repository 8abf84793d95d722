import os
import sys

# `python -m` imports from the working folder first, where a file of a run from elsewhere may be named as a library is.
_home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != _home:
    del sys.path[0]

from reverie.cli import main  # noqa: E402

sys.exit(main())
