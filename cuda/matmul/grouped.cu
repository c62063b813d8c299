// Which kernel computes a product of grouped rows. Where several give the same bits it is the number of rows that
// decides, never a measurement: a recorded decode step is the same in every process.
#include "cuda/matmul/grouped.h"

#include "cuda/bulk.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kPeerParts = 4;
/// With fewer rows an expert, on average, forward products are bound by the weights they read.
constexpr int64_t kFewRowsEach = 64;

void grouped_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& offsets, Trans trans,
                    bool accumulate) {
  if (c.numel() == 0) return;
  if (a.numel() == 0) {
    if (trans == Trans::kTN && !accumulate) MANTISSA_RUN(exec, fill, c, 0.0);
    return;
  }
  const int64_t experts = offsets.numel() - 1;
  const Tensor& weight = trans == Trans::kTN ? c : b;
  const GroupedProduct p{.rows = a.size(0),
                         .n = weight.size(0) / experts,
                         .k = weight.size(1),
                         .experts = int(experts),
                         .trans = trans,
                         .accumulate = accumulate,
                         .type = a.dtype(),
                         .offsets = offsets.data<int32_t>(),
                         .a = a.raw(),
                         .b = b.raw(),
                         .c = c.raw()};
  check(c.dtype() == (trans == Trans::kTN ? Dtype::kF32 : p.type), "[grouped_matmul] ", name_of(p.type),
        " does not become ", name_of(c.dtype()));
  const bool peer = exec.match == Match::kPeer;
  const bool serves = is_16bit(p.type) && p.n % 8 == 0 && p.k % 8 == 0 && cuda::aligned({p.a, p.b, p.c}) &&
                      cuda::has_box_copies(cuda::device_facts(exec));
  if (peer || !serves) return run_grouped_plain(exec, p, peer ? kPeerParts : 1);
  if (trans == Trans::kTN) return run_grouped_sums(exec, p);
  if (trans == Trans::kNT && p.rows < kFewRowsEach * experts) return run_grouped_stream(exec, p);
  run_grouped_tiles(exec, p);
}

}  // namespace

void register_grouped_matmul(Kernels& table) {
  table.grouped_matmul = grouped_matmul;
}

}  // namespace mantissa::cuda_kernels
