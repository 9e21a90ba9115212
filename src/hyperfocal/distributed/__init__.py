"""Several processes that train one model together, as torchrun starts them; alone, everything here does nothing."""

from hyperfocal.distributed.collectives import (
    all_gather,
    all_reduce,
    any_process,
    from_first,
    gather_objects,
    on_first,
    refuse_different,
    sum_number,
)
from hyperfocal.distributed.gradients import gather_rows, sum_gradients
from hyperfocal.distributed.group import (
    is_first,
    local_processes,
    lost_contact,
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
    "lost_contact",
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
