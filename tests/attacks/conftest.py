"""Attackers come from all over 127.0.0.0/8, which is one machine's own only on Linux."""

from __future__ import annotations

import sys

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
