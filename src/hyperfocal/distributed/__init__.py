"""Data-parallel training by several processes, started by torchrun; with one process, every function does nothing."""

from hyperfocal.distributed.collectives import (
    all_gather,
    all_reduce,
    any_process,
    from_first,
    gather_objects,
    gather_rows,
    on_first,
    refuse_different,
    sum_gradients,
    sum_number,
)
from hyperfocal.distributed.group import (
    is_first,
    local_processes,
    processes,
    rank,
    refuse_several,
    share_of,
    world_size,
)

__all__ = [
    "all_gather",
    "all_reduce",
    "any_process",
    "from_first",
    "gather_objects",
    "gather_rows",
    "is_first",
    "local_processes",
    "on_first",
    "processes",
    "rank",
    "refuse_different",
    "refuse_several",
    "share_of",
    "sum_gradients",
    "sum_number",
    "world_size",
]
