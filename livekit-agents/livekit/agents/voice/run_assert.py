"""Assertions over the events of a run; being written."""


class RunAssert:
    def __init__(self, run_result: object) -> None:
        self._run = run_result
