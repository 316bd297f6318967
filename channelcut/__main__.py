"""`python -m channelcut`, where the script is not on the path."""

from channelcut.cli import main

raise SystemExit(main())
