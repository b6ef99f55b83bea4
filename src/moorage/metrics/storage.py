"""Duration and failures of storage calls, observed by `moorage.storage.instrumented`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import StorageExhausted, StorageUnavailable

if TYPE_CHECKING:
    from moorage.metrics.recorder import Recorder

__all__ = ["StorageTimes"]

_SECONDS: Final = "registry_storage_action_seconds"
_ERRORS: Final = "moorage_storage_errors_total"


class StorageTimes:
    """A `Watch` that records in `recorder`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, driver: str, action: str, key: str) -> _Timed:
        del key  # a label per key would make one series per blob
        return _Timed(self._recorder, driver, action)


class _Timed:
    __slots__ = ("_action", "_begun", "_driver", "_recorder")

    def __init__(self, recorder: Recorder, driver: str, action: str) -> None:
        self._recorder = recorder
        self._driver = driver
        self._action = action
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        seconds = time.perf_counter() - self._begun
        self._recorder.observe((_SECONDS, self._driver, self._action), seconds)
        if isinstance(error, StorageUnavailable):
            how = "full" if isinstance(error, StorageExhausted) else "unavailable"
            self._recorder.count(_ERRORS, self._driver, self._action, how)
