"""A trained policy at work: agents as Ray actors around a plant, from a checkpoint to a summary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from camac_dra.coordination.plant import Plant, SimulatedPlant
from camac_dra.coordination.runtime.deployment import Deployment, Options
from camac_dra.coordination.runtime.telemetry import Summary
from camac_dra.models.actor import PolicySpec
from camac_dra.models.checkpoint_files import read_manifest
from camac_dra.models.policy_loading import CheckpointPolicy
from camac_dra.training.checkpoint_store import FOLDER, find_checkpoint
from camac_dra.training.ray_session import ray_session
from camac_dra.training.stopping import StopRequest
from camac_dra.training.transfer import check_problem
from camac_dra.utils.dotted import import_callable
from camac_dra.utils.errors import CapabilityError, ConfigurationError
from camac_dra.utils.event_writer import EventWriter
from camac_dra.utils.file_handler import StrPath, writable_directory
from camac_dra.utils.schema import Config

MakePlant = Callable[..., Plant]


@dataclass(frozen=True)
class Request:
    """What is to be deployed, on what, and for how long."""

    checkpoint: StrPath
    seed: int | None = None  # of the simulated plant; None: training.evaluation_seed
    steps: int | None = None  # decisions; None: one episode
    plant: str | None = None  # dotted path of what makes a plant from (environment section, seed)
    options: Options = field(default_factory=Options)
    address: str | None = None  # of a Ray cluster; None: one is started here
    log_dir: StrPath | None = None  # of TensorBoard events; None: no events

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` where a number is out of range."""
        if self.steps is not None and self.steps < 1:
            raise ConfigurationError(f"--steps: must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class Deployed:
    """How it ended."""

    summary: Summary
    signal_number: int | None  # of what stopped it early; None: nothing did
    problems: dict[str, int]  # what agents raised, and how often


def deploy(config: Config, request: Request, say: Callable[[str], None] = lambda text: None) -> Deployed:
    """Start bus and agents, run the decision loop, end everything, and return the figures.

    Ctrl-C and SIGTERM end it after the decision under way.

    Raises:
        CapabilityError: the problem is somebody else's environment.
        CheckpointError: there is no policy there, or it does not fit the problem.
        ConfigurationError: a setting is wrong, or the plant cannot be made.
        FleetError: agents do not start.
    """
    if config.environment.factory is not None:
        raise CapabilityError(
            f"environment.factory: deploy works on the allocation problem, whose plant it knows, got "
            f"{config.environment.factory!r}: camac_dra.models.load_policy(checkpoint).act(observation) acts "
            "anywhere"
        )
    policy = policy_of(request.checkpoint, config)
    environment = config.environment.held_out()
    seed = config.training.evaluation_seed if request.seed is None else request.seed
    make = SimulatedPlant if request.plant is None else import_callable(request.plant, "--plant")
    steps = environment.max_episode_length if request.steps is None else request.steps
    writer = None if request.log_dir is None else EventWriter(writable_directory(Path(request.log_dir)))
    plant = make(environment, seed)
    try:
        with (
            ray_session(1, request.address),
            StopRequest(lambda: say("Stopping after this decision")) as stop,
        ):
            agents, per = environment.num_agents, request.options.agents_per_actor
            say(f"Starting {math.ceil(agents / per)} processes for {agents} agents")
            report = None if writer is None else lambda step, figures: writer.add_scalars(figures, step)
            with Deployment(plant, policy, config.coordination, request.options, report=report) as deployment:
                say(f"Deciding, {steps} times")
                summary = deployment.run(steps, lambda: bool(stop))
                return Deployed(summary, stop.signal_number, dict(deployment.problems))
    finally:
        plant.close()
        if writer is not None:
            writer.close()


def policy_of(checkpoint: StrPath, config: Config) -> PolicySpec:
    """Return the policies of a checkpoint for the agents of ``config``.

    Raises:
        CheckpointError: there is none, or it does not fit the problem.
    """
    loaded = CheckpointPolicy.load(checkpoint, trusted=True)
    spec, problem = loaded.spec, config.environment.held_out()
    env = SimulatedPlant(problem, 0).env
    manifest = read_manifest(find_checkpoint(checkpoint, prefer_best=True))
    if not check_problem(manifest, loaded.config, spec.observation_shape, problem, env):
        return spec
    shape, assignment = tuple(env.single_observation_space.shape), (0,) * env.num_agents
    return PolicySpec(**{**vars(spec), "observation_shape": shape, "assignment": assignment})


def log_folder(checkpoint: Path) -> Path:
    """Return a new place for the events of a deployment: in the checkpoint's run, or else here."""
    store = checkpoint.resolve().parent
    parent = store.parent if store.name == FOLDER else Path.cwd()
    return parent / f"deployed_{datetime.now():%Y%m%d_%H%M%S}"


def as_record(deployed: Deployed, checkpoint: StrPath) -> dict[str, Any]:
    """Return the figures as plain values, for JSON."""
    return {"checkpoint": str(checkpoint), "problems": deployed.problems, **deployed.summary.to_dict()}
