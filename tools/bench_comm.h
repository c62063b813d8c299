// bench comm: the collectives between ranks, checked and timed.
#pragma once

#include "core/comm.h"

namespace mantissa {

/// One JSON line a collective and size, from rank 0: comm, bytes (of the whole buffer), dtype, ranks, device, ms_min,
/// ms_median, ms_max, gb_per_s (the link's: what NCCL's own tests call busbw). Throws where a result is wrong.
void bench_comm(Exec& exec, Comm& comm, int repeat);

}  // namespace mantissa
