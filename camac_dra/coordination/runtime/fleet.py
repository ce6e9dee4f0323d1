"""The processes of agents on a Ray cluster: started, asked, waited for, killed, started again, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from camac_dra.coordination.agent_actor import AgentActor, HostSnapshot, HostSpec, Pulse
from camac_dra.coordination.message_bus import MessageBus
from camac_dra.coordination.runtime.decision import Answer, Inputs, Missing
from camac_dra.utils.errors import FleetError, UnpreparedError

_LEAST_AT_ONCE = 4  # processes that start at the same time, however few cores there are


class Fleet:
    """P Ray actors that host agents. Every wait has an end; nothing here raises because an actor died.

    Used from one thread. `close` ends all actors; so does leaving the ``with`` block.
    """

    def __init__(self, specs: Sequence[HostSpec], bus: MessageBus, start_timeout: float = 120.0) -> None:
        """Start an actor per spec and wait until all are up.

        They start a few at a time: more at once than there are cores only keep each other waiting.

        Raises:
            FleetError: an actor did not start, or none did for ``start_timeout`` seconds; then none is left.
        """
        self.specs, self._bus = list(specs), bus
        # Kept here for those that have to begin again.
        self._prepared = [ray.put(spec) for spec in self.specs]
        actor: Any = AgentActor
        self._new_actor = actor.remote
        self._actors: list[Any] = []
        self._pulses: list[Pulse | None] = [None] * len(self.specs)
        self._overdue: dict[int, Any] = {}  # answers that did not come in time, by process
        self._returning: dict[int, Any] = {}  # first signs of life of processes that died, by process
        self._last: dict[int, HostSnapshot | None] = {}  # what those were prepared with
        try:
            self._start(start_timeout)
        except BaseException as error:
            self.close()
            if not isinstance(error, RayError):
                raise
            up = sum(pulse is not None for pulse in self._pulses)
            raise FleetError(_why_not_started(error, up, len(self.specs), start_timeout)) from error

    def _start(self, start_timeout: float) -> None:
        at_once = max(_LEAST_AT_ONCE, 2 * int(ray.cluster_resources().get("CPU", 1)))
        starting: dict[Any, int] = {}  # first sign of life -> process
        while None in self._pulses:
            while len(self._actors) < len(self.specs) and len(starting) < at_once:
                self._actors.append(self._new_actor())
                process = len(self._actors) - 1
                starting[self._prepare(process, None)] = process
            ready, _ = ray.wait(list(starting), num_returns=1, timeout=start_timeout)
            if not ready:
                raise GetTimeoutError
            for ref, pulse in zip(ready, ray.get(ready), strict=True):
                self._pulses[starting.pop(ref)] = pulse

    def __len__(self) -> int:
        return len(self._actors)

    def ask(
        self, inputs: Mapping[int, Inputs], seconds: float
    ) -> tuple[dict[int, Answer | Missing], dict[int, str]]:
        """Ask these processes for a decision; wait up to ``seconds``.

        Returns what each answered, or why not, and what went wrong in those that raised. A process that still
        works on an earlier decision is not asked: it is late.
        """
        end = time.monotonic() + seconds
        asked = {
            process: self._actors[process].decide.remote(given)
            for process, given in inputs.items()
            if process not in self._overdue
        }
        results: dict[int, Answer | Missing] = dict.fromkeys(inputs, "late")
        ready, missing = self._wait(list(asked.values()), end - time.monotonic())
        process_of = {ref: process for process, ref in asked.items()}
        self._overdue.update((process_of[ref], ref) for ref in missing)
        problems: dict[int, str] = {}
        for ref, result in zip(ready, _results(ready), strict=True):
            if isinstance(result, Answer):
                results[process_of[ref]] = result
            elif isinstance(result, RayTaskError) and not isinstance(result.cause, UnpreparedError):
                problems[process_of[ref]] = _first_line(result)  # it lives, and could not decide
            else:  # it died, or did so unseen and is another one since
                results[process_of[ref]] = "dead"
        return results, problems

    def is_overdue(self, process: int) -> bool:
        """Return whether a process still works on an earlier decision, as far as is known."""
        return process in self._overdue

    def late_answers(self) -> list[int]:
        """Return the processes whose overdue answers came at last; the answers are too old to be of use."""
        ready, _ = self._wait(list(self._overdue.values()), 0.0)
        came = set(ready)
        processes = [process for process, ref in self._overdue.items() if ref in came]
        for process in processes:
            del self._overdue[process]
        return processes

    def expect(self, process: int, snapshot: HostSnapshot | None = None) -> None:
        """Have a process that died go on once it is back, from a snapshot of its state where there is one."""
        self._overdue.pop(process, None)
        self._last[process] = snapshot
        self._returning[process] = self._prepare(process, snapshot)

    def returned(self) -> list[int]:
        """Return the processes that are back; those that died again on the way are asked once more."""
        ready, _ = self._wait(list(self._returning.values()), 0.0)
        process_of = {ref: process for process, ref in self._returning.items()}
        back = []
        for ref, pulse in zip(ready, _results(ready), strict=True):
            process = process_of[ref]
            del self._returning[process]
            if isinstance(pulse, Pulse):
                self._pulses[process] = pulse
                back.append(process)
            else:
                self.expect(process, self._last[process])
        return back

    def kill(self, process: int) -> None:
        """Kill a process as a crash would (SIGKILL where it runs on this machine); Ray starts it again."""
        pulse = self._pulses[process]
        if pulse is not None and pulse.node == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pulse.pid, signal.SIGKILL)
        else:
            ray.kill(self._actors[process], no_restart=False)

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, process: int, snapshot: HostSnapshot | None) -> Any:
        return self._actors[process].prepare.remote(self._prepared[process], self._bus, snapshot)

    @staticmethod
    def _wait(refs: list[Any], seconds: float) -> tuple[list[Any], list[Any]]:
        if not refs:
            return [], []
        return ray.wait(refs, num_returns=len(refs), timeout=max(0.0, seconds))


def _results(refs: list[Any]) -> list[Any]:
    """Return what references that are ready hold, or the errors; one by one only where there are some."""
    try:
        return list(ray.get(refs))
    except RayError:
        return [_result(ref) for ref in refs]


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayError as error:
        return error


def _first_line(error: RayTaskError) -> str:
    return str(error.cause).splitlines()[0] if str(error.cause) else type(error.cause).__name__


def _why_not_started(error: Exception, up: int, processes: int, timeout: float) -> str:
    if isinstance(error, GetTimeoutError):
        free = {name: amount for name, amount in ray.available_resources().items() if ":" not in name}
        return (
            f"{processes} processes of agents must start, the next within {timeout:g} s of the one before, "
            f"got {up} that did; Ray has left: {free}. Host more agents in each (--agents_per_actor)"
        )
    cause = getattr(error, "cause", None) or error
    return f"processes of agents must start, one did not: {str(cause).strip().splitlines()[-1]}"
