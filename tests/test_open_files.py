from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, resource
from embedway.open_files import connections_that_fit, raise_limit

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
before = connections_that_fit(4096)
raise_limit()
after = resource.getrlimit(resource.RLIMIT_NOFILE)
print(json.dumps([before, after, connections_that_fit(4096), connections_that_fit(5)]))
"""


def test_a_process_takes_all_files_that_it_may_have_and_keeps_some_from_its_clients() -> None:
    """In a process of its own: a hard limit that was lowered stays low."""
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [36, [200, 200], 136, 5]
