import sys

if not sys.flags.safe_path:
    # `python -m` looks for modules in the working directory first, where files may be named alike.
    del sys.path[0]

from edgewise.cli import main

main()
