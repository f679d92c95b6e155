"""``python -m pypty``."""

import sys

from pypty.cli import main

sys.exit(main())
