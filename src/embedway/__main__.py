"""`python -m embedway`"""

from __future__ import annotations

import sys

from embedway.cli import main

sys.exit(main())
