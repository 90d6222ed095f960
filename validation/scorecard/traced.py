"""A plugin that notes which lines of megatron-core a rank runs and which fields it reads: `validation.scorecard.traced:KEY`.

From the moment the configuration is there until the last step has been taken. What the configuration does with itself when it
is made is before that. Lines are traced by coverage.py, whatever else traces is not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = "PLUMBLINE_TRACES"
"""The variable that names the folder in which each rank leaves a file."""


def plugin_of(key: str) -> str:
    """The plugin whose files are called by this key, a word of letters and digits."""
    return f"{__name__}:{key}"


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    traced = _Traced(name)
    return SimpleNamespace(configure=traced.configure, stepped=traced.stepped)


class _Traced:
    def __init__(self, key: str) -> None:
        self._key = key
        self._read: set[str] = set()

    def configure(self, case: Any, config: Any) -> None:
        """Trace from here on."""
        import coverage
        import megatron.core

        self._core = str(Path(megatron.core.__file__).parent)
        self._watch_fields(type(config))
        self._coverage = coverage.Coverage(data_file=None, include=[f"{self._core}/*"], config_file=False, messages=False)
        self._coverage.start()

    def stepped(self, case: Any, chunks: Any, step: int) -> None:
        """Behind the last step, write down what was seen."""
        if step != case.training.steps:
            return
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {file.removeprefix(self._core): sorted(data.lines(file) or ()) for file in data.measured_files()}
        path = Path(os.environ[FOLDER]) / f"{self._key}-{os.getpid()}.json"
        path.write_text(json.dumps({"lines": lines, "read": sorted(self._read)}), encoding="utf-8")

    def _watch_fields(self, of_model: type) -> None:
        """Note each field that megatron-core's code reads of a configuration, checks of its own aside."""
        from megatron.core.distributed import DistributedDataParallelConfig
        from megatron.core.optimizer import OptimizerConfig

        for section, configuration in (
            ("model", of_model),
            ("ddp", DistributedDataParallelConfig),
            ("optimizer", OptimizerConfig),
        ):
            self._watch(section, configuration)

    def _watch(self, section: str, configuration: Any) -> None:
        plain, core, read = configuration.__getattribute__, self._core, self._read

        def watched(this: Any, name: str) -> Any:
            code = sys._getframe(1).f_code
            if code.co_name != "__post_init__" and code.co_filename.startswith(core):
                read.add(f"{section}.{name}")
            return plain(this, name)

        configuration.__getattribute__ = watched
