"""`python -m channelcut.cli`."""

import sys

from channelcut.cli import main

if __name__ == "__main__":
    sys.exit(main())
