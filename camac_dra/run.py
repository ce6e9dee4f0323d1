"""Train on an allocation problem and see how far the policy is from heuristics and from the optimum.

::

    python -m camac_dra.run [train] [--config FILE] [--num_workers N] [--num_learners N] [--num_gpus G]
                            [--address ADDRESS] [--quiet]
    python -m camac_dra.run resume RUN_OR_CHECKPOINT
    python -m camac_dra.run evaluate --checkpoint RUN_OR_CHECKPOINT [--episodes N] [--seed S]
                                     [--heuristics NAMES]
    python -m camac_dra.run deploy --checkpoint RUN_OR_CHECKPOINT [--protocol P] [--agents_per_actor K]
                                   [--steps N] [--seed S] [--shadow] [--chaos FAULTS] [--plant MAKER]
    python -m camac_dra.run validate FILE
    python -m camac_dra.run doctor

Any setting can be given as well: ``--environment.num_agents 20 --training.num_episodes 200``. Exit codes:
0; 1 where a training diverged or a check failed; 2 for bad input; 130 and 143 after Ctrl-C and SIGTERM,
with a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camac_dra import __version__
from camac_dra.utils import doctor
from camac_dra.utils.command_line import add_config_file, config_file, run_command
from camac_dra.utils.config_loader import build_config
from camac_dra.utils.errors import ConfigurationError, OracleError, TrainingDivergedError
from camac_dra.utils.file_handler import atomic_write_bytes
from camac_dra.utils.overrides import parse_overrides, split_settings
from camac_dra.utils.processors import wait_briefly

if TYPE_CHECKING:
    from camac_dra.training.experiment import Experiment
    from camac_dra.training.progress import Display

# Torch, RLlib and SciPy take seconds to load: commands import what they need.

COMMANDS = ("train", "resume", "evaluate", "deploy", "validate", "doctor")
FAILED = 1
SIGNALLED = 128  # plus the signal's number, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["train", *given]
    return run_command(partial(_run, given))


def _run(given: list[str]) -> int:
    tokens, settings = split_settings(given)
    known, rest = _parser().parse_known_args(tokens)
    overrides = parse_overrides([*rest, *settings])
    command: Callable[[argparse.Namespace, dict[str, Any]], int] = {
        "train": _train,
        "resume": _resume,
        "evaluate": _evaluate,
        "deploy": _deploy,
        "validate": _validate,
        "doctor": _doctor,
    }[known.command]
    try:
        return command(known, overrides)
    except (TrainingDivergedError, OracleError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


def _parser() -> argparse.ArgumentParser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m camac_dra.run",
        description=description,
        epilog=examples.replace("::\n\n", "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"camac-dra {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(commands.add_parser, allow_abbrev=False)

    train = add("train", help="train, evaluate and compare; the default command")
    train.add_argument("--config", metavar="FILE", help="YAML or JSON; without it, the default problem")
    resume = add("resume", help="go on with a run from its latest checkpoint, or from any")
    resume.add_argument("path", metavar="RUN_OR_CHECKPOINT")
    for command in (train, resume):
        _add_processes(command)
        command.add_argument(
            "--address", help="of a running Ray cluster: HOST:PORT, or auto on one of its machines"
        )
        command.add_argument("--quiet", action="store_true", help="no progress, only results")

    evaluate = add("evaluate", help="compare a trained policy with heuristics and the optimum")
    evaluate.add_argument(
        "--checkpoint", required=True, metavar="RUN_OR_CHECKPOINT", help="of a run: its best"
    )
    evaluate.add_argument(
        "--config",
        metavar="FILE",
        help="problem to play, also with more or fewer agents where they share one policy; without it, the "
        "one trained on (--environment.num_agents 200 then changes their number)",
    )
    evaluate.add_argument("--episodes", type=int, metavar="N", help="held-out episodes")
    evaluate.add_argument("--seed", type=int, metavar="S", help="of the held-out episodes")
    evaluate.add_argument(
        "--heuristics",
        metavar="NAMES",
        help="separated by commas, all that fit the problem (the default) or none",
    )
    evaluate.add_argument("--json", metavar="FILE", help="also write the figures there")

    _add_deploy(add("deploy", help="run trained agents as Ray actors around a plant"))
    validate = add("validate", help="check a configuration, and that its problem can be built")
    add_config_file(validate)
    examine = add("doctor", help="say what on this machine would fail, and how to mend it")
    examine.add_argument("--config", metavar="FILE", help="judge the machine for this configuration")
    _add_processes(examine)
    return parser


def _add_processes(command: argparse.ArgumentParser) -> None:
    """Add the short forms of the settings that say how many processes and GPUs a run has."""
    add = command.add_argument
    add("--num_workers", type=int, metavar="N", help="sampling processes; 0: sample in this process")
    add("--num_learners", type=int, metavar="N", help="learning processes; 0: learn in this process")
    add("--num_gpus", type=float, metavar="G", help="GPU, or share of one, per learner; 0: the processor")


def _add_deploy(deploy: argparse.ArgumentParser) -> None:
    deploy.add_argument("--checkpoint", required=True, metavar="RUN_OR_CHECKPOINT", help="of a run: its best")
    deploy.add_argument("--config", metavar="FILE", help="problem to work on; without it, the one trained on")
    deploy.add_argument("--protocol", metavar="P", help="short for --coordination.protocol")
    deploy.add_argument(
        "--agents_per_actor", type=int, metavar="K", default=1, help="agents in one process (1)"
    )
    deploy.add_argument("--interval", type=float, default=0.0, metavar="SECONDS", help="between decisions")
    deploy.add_argument("--steps", type=int, metavar="N", help="decisions; without it, one episode")
    deploy.add_argument("--seed", type=int, metavar="S", help="of the simulated plant")
    deploy.add_argument(
        "--quorum", type=float, default=0.5, metavar="SHARE", help="of answers, or fair share"
    )
    deploy.add_argument("--shadow", action="store_true", help="decide without applying: fair shares are")
    deploy.add_argument(
        "--chaos",
        default="",
        metavar="FAULTS",
        help="faults on purpose: kill_agents=0.1,kill_bus=1,drop=0.05,delay=0.01,partitions=1,seed=3",
    )
    deploy.add_argument("--plant", metavar="MAKER", help="dotted path of what makes a plant of one's own")
    deploy.add_argument("--address", help="of a running Ray cluster: HOST:PORT, or auto")
    deploy.add_argument(
        "--log", metavar="DIR", help="of TensorBoard events; without it, a new one in the run"
    )
    deploy.add_argument("--json", metavar="FILE", help="also write the figures there")
    deploy.add_argument("--quiet", action="store_true", help="no progress, only results")


# Commands


def _train(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    config = build_config(known.config, _with_processes(known, overrides))
    display = _prepare(quiet=known.quiet)
    from camac_dra.training.experiment import Experiment, Options

    with Experiment.start(config, Options(display, address=known.address)) as experiment:
        return _work(experiment, display)


def _resume(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    overrides = _with_processes(known, overrides)
    display = _prepare(quiet=known.quiet)
    from camac_dra.training.experiment import Experiment, Options

    with Experiment.resume(known.path, overrides, Options(display, address=known.address)) as experiment:
        return _work(experiment, display)


def _work(experiment: Experiment, display: Display) -> int:
    """Train, compare, and say where everything is."""
    from camac_dra.training.training_loop import Status

    path = experiment.run.path
    display.say(f"Writing to {path}; curves: {tensorboard_command(path)}")
    status = experiment.train()
    if status is Status.INTERRUPTED:
        latest = experiment.run.checkpoints.latest()
        print(f"Stopped with a checkpoint in {latest}\nGo on:       {_command('resume', path)}")
        return SIGNALLED + (experiment.loop.signal_number or 0)
    from camac_dra.training.judging import heuristics_for, rivals_of

    config = experiment.config
    names = heuristics_for(config, None)
    display.say(
        f"Training is {status.value} after {experiment.loop.history.iterations} iterations. Comparing with "
        f"{rivals_of(config, names)} on {config.training.evaluation_episodes} held-out episodes"
    )
    experiment.judge(names).print()
    print(_whereabouts(experiment))
    return 0


def _refuse_what_is_trained(overrides: dict[str, Any]) -> None:
    """Raise `ConfigurationError` for settings that a trained policy has already."""
    for name in overrides:
        if name.startswith(("model.", "training.")) and not name.startswith("training.evaluation_"):
            raise ConfigurationError(
                f"--{name}: is of the training that made the checkpoint, and has no effect on a trained "
                "policy; must be left out, or trained anew with"
            )


def _evaluate(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    _prepare(quiet=True)
    from camac_dra.training.checkpoint_store import find_checkpoint
    from camac_dra.training.checkpoints import json_bytes, read_checkpoint
    from camac_dra.training.comparison import named_heuristics
    from camac_dra.training.judging import heuristics_for, judge_problem
    from camac_dra.training.policy import TrainedPolicy, saved_config

    wanted = named_heuristics(known.heuristics)  # a wrong name is said before anything is read
    settings = {"training.evaluation_episodes": known.episodes, "training.evaluation_seed": known.seed}
    overrides = {**overrides, **{name: value for name, value in settings.items() if value is not None}}
    _refuse_what_is_trained(overrides)
    folder = find_checkpoint(known.checkpoint, prefer_best=True)
    if known.config is None:
        config = saved_config(read_checkpoint(folder).config, f"{folder}/config.yaml", overrides)
    else:
        config = build_config(known.config, overrides)
    names = heuristics_for(config, wanted)
    policy = TrainedPolicy.load(folder, config.environment.held_out())
    verdict = judge_problem(policy, config, names)
    if known.json is not None:
        record = {"checkpoint": str(folder), **verdict.to_dict()}
        atomic_write_bytes(known.json, json_bytes(record))
    verdict.print()
    return 0


def _deploy(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    _refuse_what_is_trained(overrides)
    if known.protocol is not None:
        overrides = {**overrides, "coordination.protocol": known.protocol}
    display = _prepare(quiet=known.quiet)
    from camac_dra.coordination.runtime.chaos import ChaosSpec
    from camac_dra.coordination.runtime.deployment import Options
    from camac_dra.coordination.runtime.telemetry import format_summary
    from camac_dra.training.checkpoint_store import find_checkpoint
    from camac_dra.training.checkpoints import json_bytes, read_checkpoint
    from camac_dra.training.deploy import Request, as_record, deploy, log_folder
    from camac_dra.training.policy import saved_config

    chaos, given = ChaosSpec.parse(known.chaos), ("agents_per_actor", "quorum", "interval", "shadow")
    try:
        options = Options(**{name: getattr(known, name) for name in given}, chaos=chaos)
    except ConfigurationError as error:  # begins with the option's name
        raise ConfigurationError(f"--{error}") from None
    folder = find_checkpoint(known.checkpoint, prefer_best=True)
    if known.config is None:
        config = saved_config(read_checkpoint(folder).config, f"{folder}/config.yaml", overrides)
    else:
        config = build_config(known.config, overrides)
    log = log_folder(folder) if known.log is None else Path(known.log)
    request = Request(folder, known.seed, known.steps, known.plant, options, known.address, log)
    deployed = deploy(config, request, display.say)
    if known.json is not None:
        atomic_write_bytes(known.json, json_bytes(as_record(deployed, folder)))
    print(format_summary(deployed.summary))
    for problem, times in deployed.problems.items():
        print(f"Problem:     {problem} ({times} times)")
    print(f"Curves:      {tensorboard_command(log)}")
    return SIGNALLED + deployed.signal_number if deployed.signal_number else 0


def _validate(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    file = config_file(known)
    config = build_config(file, overrides)
    from camac_dra.training.environments import prove

    prove(config)
    print(f"{file}: valid")
    return 0


def _doctor(known: argparse.Namespace, overrides: dict[str, Any]) -> int:
    config = build_config(known.config, _with_processes(known, overrides))
    checks = doctor.run_doctor(config)
    print(doctor.format_checks(checks))
    return FAILED if doctor.has_failures(checks) else 0


# Helpers


def _with_processes(known: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Take ``--num_workers`` for ``--training.num_workers``, of which it is the short form, and so on."""
    found = dict(overrides)
    for name in ("num_workers", "num_learners", "num_gpus"):
        value = getattr(known, name)
        if value is None:
            continue
        if f"training.{name}" in found:
            raise ConfigurationError(f"--{name}: is --training.{name}, which is given too: give one of them")
        found[f"training.{name}"] = value
    return found


def _prepare(*, quiet: bool) -> Display:
    """Load torch and RLlib, and return what shows the progress."""
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # Ray starts where we say so, or not at all
    wait_briefly()
    if not quiet:
        sys.stderr.write(f"camac-dra {__version__}: loading torch and RLlib\n")
    from camac_dra.training.progress import make_display
    from camac_dra.training.ray_session import quiet_ray

    quiet_ray()
    return make_display(quiet=quiet)


def _whereabouts(experiment: Experiment) -> str:
    run = experiment.run.path
    return "\n".join(
        [
            f"Run:         {run}",
            f"Best policy: {experiment.best_checkpoint()}",
            f"Curves:      {tensorboard_command(run)}",
            f"Once more:   {_command('evaluate', '--checkpoint', run)}",
        ]
    )


def tensorboard_command(run: Path) -> str:
    """Return a command that shows the curves of a run, ready to copy."""
    beside = Path(sys.executable).with_name("tensorboard")
    on_path = shutil.which("tensorboard")
    found = on_path is not None and beside.exists() and Path(on_path).samefile(beside)
    return shlex.join(["tensorboard" if found else _relative(beside), "--logdir", str(run)])


def _command(*arguments: object) -> str:
    return shlex.join([_relative(Path(sys.executable)), "-m", "camac_dra.run", *map(str, arguments)])


def _relative(path: Path) -> str:
    """Return a path as it is shortest from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
