"""Starting the processes of a run on this machine, by torch's own launcher."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from manymask.errors import PlanError, TrainingError


def launch_processes(arguments: Sequence[str], devices: int, num_nodes: int) -> int:
    """Run ``manymask`` with some arguments in several processes, as ``torchrun`` does, and wait for them.

    On several machines the same command is given on each, with ``MASTER_ADDR`` (the first one's address) and
    ``NODE_RANK`` (0 on the first, 1 on the next ..) in the environment; ``MASTER_PORT`` is 29400 by default.

    Args:
        arguments: What follows ``manymask``.
        devices: Processes on this machine.
        num_nodes: Machines.

    Returns:
        The exit code of the process that failed first, 0 where none did.

    Raises:
        PlanError: The environment does not say where the other machines are, or they cannot be reached.
        TrainingError: A process was ended by a signal; names it.
    """
    config = LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    if num_nodes > 1:
        if missing := {"MASTER_ADDR", "NODE_RANK"} - os.environ.keys():
            raise PlanError(
                f"num_nodes is {num_nodes}, but the environment has no {' and no '.join(sorted(missing))}: set "
                "MASTER_ADDR to the address of the first machine on all of them, and NODE_RANK to 0, 1 .. on each"
            )
        config.run_id, config.rdzv_backend = "manymask", "static"
        config.rdzv_endpoint = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '29400')}"
        config.rdzv_configs |= {"rank": int(os.environ["NODE_RANK"])}
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it tells of each process and its traceback
    # As torchrun does: every process would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    try:
        elastic_launch(config, sys.executable)("-m", "manymask", *arguments)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[1].timestamp))
        rank, failure = failures[0]  # the others have lost this one, if a signal ended it
        if failure.exitcode < 0:
            raise TrainingError(
                f"process {rank} of the run (pid {failure.pid}) was ended by {failure.signal_name()}; the others were "
                "ended too; resume the run"
            ) from None
        return failure.exitcode
    except SignalException as error:  # the processes were told, and the first of them has said how to go on
        return 128 + error.sigval
    except (RuntimeError, RendezvousError) as error:
        raise PlanError(
            f"the processes of the run cannot meet at {config.rdzv_endpoint} ({error}); set MASTER_PORT to a free port "
            "that all machines reach"
        ) from error
    return 0
