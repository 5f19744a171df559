"""Fixtures of all tests; those with a model in them live in training_fixtures.py."""

import gc
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling
    from xdist.workermanage import WorkerController

LONG = ("vllm", "tests/pipelines/", "tests/stacks/", "tests/notebooks/")
"""Files whose tests are few and take minutes."""

pytest_plugins = ["tests.training_fixtures", "tests.vllm_fixtures", "tests.zenml_fixtures"]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads of both would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Side by side run files, whose tests follow one another and share fixtures; one worker has all that ask vLLM.

    xdist's own groups would say this in a mark, but not under pytest 9.2, where its suffix of a test's name is lost.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _assign_work_unit(self, node: "WorkerController") -> None:
            """The long ones first, lest one worker have them to itself in the end: xdist goes by how many they are."""
            long = next((scope for scope in self.workqueue if scope.startswith(LONG)), None)
            if long is not None:
                self.workqueue.move_to_end(long, last=False)
            super()._assign_work_unit(node)

        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "vllm" if file.endswith("vllm.py") else file

    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file's libraries leave open is collected where that is ignored, not in whatever test comes later."""
    is_last = nextitem is None or nextitem.path != item.path
    if is_last and any("ResourceWarning" in str(mark.args) for mark in item.iter_markers("filterwarnings")):
        gc.collect()
