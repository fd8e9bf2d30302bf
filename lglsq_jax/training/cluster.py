"""The processes of a run that has several: how each finds the others."""

from ..errors import UserError


def join(*, distributed: bool, coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others of its run, before anything else asks JAX for devices.

    Args:
        distributed: let JAX find out (Slurm, Open MPI, TPU pods, Kubernetes' JobSet and whatever else it knows).
        coordinator: ``host:port`` of the first process, where JAX cannot find out; with ``processes`` and
            ``process_id``.
        processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        UserError: some of the three are given and others not, one is out of range, or the others are not found.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not distributed:
            return
        coordinator = processes = process_id = None
    elif missing:
        raise UserError(f"--coordinator, --processes and --process-id must be given together, but {missing[0]} is not")
    else:
        assert processes is not None and process_id is not None and coordinator is not None
        if processes < 1 or not 0 <= process_id < processes:
            raise UserError(
                f"--process-id must be from 0 to {max(processes, 1) - 1} with --processes {processes}, got {process_id}"
            )
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator must be host:port, such as 10.0.0.1:1234, got {coordinator!r}")
    import jax

    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(f"the other processes of the run cannot be found: {reason[0] if reason else error!r}") from None
