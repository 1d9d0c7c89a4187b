"""`python -m seqapp.train`: from a text to a run directory."""

from __future__ import annotations

import importlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqapp import config as configuration
from seqapp import errors
from seqapp.checkpoint import Checkpoints
from seqapp.cli import Parser, add_settings, import_task, need_keras, settings
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.machines import Machines, end
from seqapp.run import Run, check_target
from seqapp.tasks import task_of


def parser() -> Parser:
    p = Parser(
        prog="python -m seqapp.train",
        description="Trains a recurrent model and measures it beside its baselines. Without arguments: the next word of a "
        "conversation, in four to nine minutes on two cores. Prints the run directory last.",
        epilog="The defaults shown are those for words of a text of yours; the conversations, and characters, have their own, "
        "which config.json in the run directory shows.",
    )
    p.add_argument("--run", metavar="DIR", help="the run directory to make (default: a fresh one under runs/)")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run, with its own settings")
    p.add_argument("--overwrite", action="store_true", help="replace the run directory if it is there")
    p.add_argument(
        "--start-or-resume",
        action="store_true",
        help="one command for whoever starts it again and again: start the run, or go on with it if it is there",
    )
    p.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="train on N devices of this machine; on several machines with TF_CONFIG (default: all GPUs of each there, else 1)",
    )
    add_settings(p)
    return p


def main(argv: list[str] | None = None) -> int:
    flags = vars(parser().parse_args(argv))
    return end(errors.run(lambda: command(flags)))


def command(flags: dict[str, Any]) -> None:
    path, resume, overwrite, file, modules = (flags.pop(name) for name in ("run", "resume", "overwrite", "config", "modules"))
    either, count = flags.pop("start_or_resume"), flags.pop("devices")
    if count is not None and count < 1:
        raise UsageError(f"--devices must be a whole number of at least 1. Received: {count}")
    machines = Machines.named(os.environ)
    if not machines.chief:  # the settings, and where training stands, come from the chief
        need_keras(modules)
        importlib.import_module("seqapp.job").help_with(count, modules)
        return
    if either:
        resume, file = goes_on(path, resume, overwrite, file)
    if resume:
        run, config = resumed(path, flags, file, modules)
        checkpoints = Checkpoints(run.path / "checkpoint")
        if (run.path / "metrics.json").exists() and not checkpoints.folder.exists():
            checkpoints.remove()
            print("the run is finished already: nothing to resume", file=sys.stderr)
            print(run.path)
            return
    else:
        config = settings(flags, file, modules)
        run = Run(Path(path or f"runs/{config.task.rpartition(':')[2]}-{time.strftime('%Y%m%d-%H%M%S')}"))
        check_target(run.path, "--run", "config.json", overwrite)
        task_of(config.task).check_data(config)
    machines.check(config.training.time_limit)
    need_keras(modules)
    importlib.import_module("seqapp.job").run_job(run, config, resume, count)
    print(run.path)


def goes_on(path: str | None, resume: bool, overwrite: bool, file: str | None) -> tuple[bool, str | None]:
    """Whether --start-or-resume finds a run to go on with, and the file that settings are then read from, which is the run's.

    Raises:
        UsageError: it has no name to find it by, or is told both to keep it and not to.
    """
    if not path or resume or overwrite:
        raise UsageError("--start-or-resume finds its run by --run DIR: give that, and neither --resume nor --overwrite.")
    return (True, None) if Run(Path(path)).config_file.exists() else (False, file)


def resumed(path: str | None, flags: dict[str, Any], file: str | None, modules: list[str]) -> tuple[Run, Config]:
    """An interrupted run and its settings; a longer training may be asked of it, and nothing else."""
    if not path or file:
        raise UsageError(
            "--resume goes on with the run that --run names, with that run's own settings: give --run, no --config."
        )
    run = Run(Path(path))
    if not run.config_file.exists():
        raise UsageError(f"There is no run in {path} to resume: leave --resume out to start one.")
    run.check_links()
    import_task(configuration.read_json(run.config_file).get("task"), modules)
    own = run.config
    config = configuration.build(flags, configuration.read_json(run.config_file))
    longer = replace(own.training, epochs=config.training.epochs, time_limit=config.training.time_limit)
    if config != replace(own, training=longer):
        raise UsageError(
            f"{path} is resumed with its own settings; only --epochs and --time-limit may change. Received: {flags}"
        )
    return run, config


if __name__ == "__main__":
    sys.exit(main())
