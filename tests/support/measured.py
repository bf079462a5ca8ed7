"""Run by programs that tests start (`runpy`, or a ``.pth`` file): measures their coverage for ``make cover``.

pytest-cov measures its own processes only. A program writes into a folder that each user may write to (see
`tests.support.shared`); at the end the files move to where pytest-cov adds them to its own.
"""

import atexit
import os
from contextlib import suppress

CHECKOUT = os.environ.get("GREETSVC_TESTS_COVERAGE")
FEW_FILES = 64  # a test that wants to run out of file descriptors leaves no room for another file

if CHECKOUT and os.sysconf("SC_OPEN_MAX") > FEW_FILES:
    import coverage

    if coverage.Coverage.current() is None:  # `site` may read a .pth file twice
        measured = coverage.Coverage(
            os.environ["GREETSVC_TESTS_FOLDER"] + "/coverage/.coverage",
            data_suffix=True,
            config_file=f"{CHECKOUT}/pyproject.toml",
        )
        measured.start()

        @atexit.register
        def save() -> None:
            with suppress(Exception):  # the disk is full, or the folder has gone: a test wanted that, or is over
                measured.stop()
                measured.save()
