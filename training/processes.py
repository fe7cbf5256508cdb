"""`python -m training.processes ...`: torchrun, for trainings that end in good order.

It takes torchrun's words and ends with the exit status of the process that failed first, without a traceback of its own.
A signal to stop is not passed on: torchrun gives processes half a minute to die, and a checkpoint may take longer.
`launch.py` asks them through a file.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_it)  # no SIG_IGN, which the processes would inherit
    try:
        run(parse_args(["--signals-to-handle=SIGQUIT", *words]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: process {rank} was killed by signal {-failure.exitcode}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException:
        return 1
    return 0


def _leave_it(number: int, frame: object) -> None:
    """Whoever started this decides."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
