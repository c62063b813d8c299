// Which form of the kernels computes a chained product: the fastest, measured once for each class of shapes. All forms
// have the same bits.
#include "cuda/matmul/chained.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/device.h"
#include "cuda/matmul/exact_choice.h"

namespace mantissa::cuda_kernels {
namespace {

bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return uintptr_t(p) % 16 == 0; });
}

/// The product that makes u.
ChainedProduct product_for_u(const ChainedProduct& p) {
  ChainedProduct u{p.first};
  u.first.columns = u.first.c_stride = p.u_columns();
  u.first.out_type = p.first.type;
  u.first.b = p.down;
  u.first.bias = nullptr;
  u.first.c = const_cast<void*>(p.u);
  u.scale = p.down_scale;
  return u;
}

/// Forms of exact_stream.cu, which make u on the way, then those of tiles.cu.
void run_form(Exec& exec, const ChainedProduct& p, int form) {
  if (form < stream_forms()) return run_stream(exec, p, form);
  if (p.down) run_chained_product(exec, product_for_u(p));
  run_tiles(exec, p, form - stream_forms());
}
bool form_serves(const ChainedProduct& p, int form) {
  return form >= stream_forms() || stream_serves(p, form);
}

class Forms {
 public:
  int of(Exec& exec, const ChainedProduct& p) {
    const ExactProduct& f = p.first;
    const Key key{size_class(f.rows),      f.columns,        f.depth,         p.rank,
                  int64_t(p.parts.size()), int64_t(p.trans), int64_t(f.type), int64_t(f.out_type),
                  p.down != nullptr};
    const std::lock_guard lock(mutex_);
    if (const auto known = chosen_.find(key); known != chosen_.end() && form_serves(p, known->second))
      return known->second;
    if (cuda::capturing(exec)) return stream_forms() + (f.rows <= kFewRows ? 0 : 1);
    std::vector<int> forms;
    std::vector<std::function<void()>> ways;
    for (int form = 0; form < stream_forms() + tile_forms(); ++form) {
      if (!form_serves(p, form)) continue;
      run_form(exec, p, form);  // so that what it runs in its turn is chosen
      forms.push_back(form);
      ways.push_back([&exec, &p, form] { run_form(exec, p, form); });
    }
    const std::vector<float> ms = measure_in_turn(exec, ways);
    return chosen_[key] = forms[size_t(std::min_element(ms.begin(), ms.end()) - ms.begin())];
  }

 private:
  using Key = std::array<int64_t, 9>;
  std::recursive_mutex mutex_;  // measuring one product runs another
  std::map<Key, int> chosen_;
};

}  // namespace

bool chained_product_serves(Exec& exec, const ChainedProduct& p) {
  const ExactProduct& first = p.first;
  const bool by_columns = p.trans == Trans::kNN;
  return has_chained_products(cuda::device_facts(exec)) && is_16bit(first.type) &&
         (p.trans == Trans::kNT || by_columns) && first.depth > 0 && first.depth % 8 == 0 && p.rank % 8 == 0 &&
         (!by_columns || first.columns % 8 == 0) && p.parts.size() <= kMostParts &&
         aligned({first.a, first.b, p.u, p.v, p.down});
}

unsigned* progress_counters(Exec& exec) {
  static std::mutex mutex;
  static auto& all = *new std::map<cudaStream_t, Tensor>;
  const std::lock_guard lock(mutex);
  Tensor& counters = all[cuda::stream(exec)];
  if (!counters.defined() && !cuda::capturing(exec)) counters = exec.zeros({kProgressCounters}, Dtype::kI32);
  return counters.defined() ? static_cast<unsigned*>(counters.raw()) : nullptr;
}

void run_chained_product(Exec& exec, const ChainedProduct& p) {
  if (p.down && !progress_counters(exec)) {
    run_chained_product(exec, product_for_u(p));
    ChainedProduct given = p;
    given.down = nullptr;
    return run_chained_product(exec, given);
  }
  static auto& forms = *new Forms;  // never destroyed: the driver may be gone first
  run_form(exec, p, forms.of(exec, p));
}

}  // namespace mantissa::cuda_kernels
