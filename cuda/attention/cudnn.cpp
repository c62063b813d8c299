// Packed causal attention through cuDNN's fused kernels, straight on the fused qkv rows: strides and ragged offsets say
// where heads and sequences lie. The library is loaded at run time (MANTISSA_CUDNN names its folder); where it, the
// device or the shape is not served, a notice (core/notice.h) says why and the own kernels run.
//
// Plans take long to build, so they are cached by bucket: numbers of sequences, of tokens and the longest sequence are
// rounded up, and sequences of length zero fill the batch. The first use of a head geometry is checked against the own
// kernels on a small ragged batch: some versions return zeros or NaN without an error. The deterministic backward holds
// the score gradients, [sequences, H, longest, longest] in 16 bits: it runs on groups of sequences that keep them near
// kScoreBytes.
//
// Legend: T tokens, S sequences, H/G/D heads; a row is (H+2G)D wide.
#include "cuda/attention/attention.h"

#include <set>

#include "core/notice.h"

namespace mantissa::cuda_kernels {
namespace {

void log_once(const std::string& reason) {
  static std::set<std::string> said;
  if (said.insert(reason).second) notice("[attention] own CUDA kernels instead of cuDNN: " + reason);
}

}  // namespace
}  // namespace mantissa::cuda_kernels

#ifndef MANTISSA_CUDNN_FRONTEND

namespace mantissa::cuda_kernels {
namespace {

bool built_without(const Tensor& qkv) {
  if (is_16bit(qkv.dtype()))
    log_once("built without cudnn.h or the headers of its C++ frontend (tools/setup.sh fetches the latter)");
  return false;
}

}  // namespace

bool cudnn_attention_fwd(Exec&, Tensor&, Tensor&, const Tensor& qkv, const Tensor&, int64_t, Heads) {
  return built_without(qkv);
}
bool cudnn_attention_bwd(Exec&, Tensor&, const Tensor&, const Tensor& qkv, const Tensor&, const Tensor&, const Tensor&,
                         int64_t, Heads) {
  return built_without(qkv);
}

}  // namespace mantissa::cuda_kernels

#else

#include <dlfcn.h>

#include <map>

#include "cuda/attention/cudnn_loader.h"

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define dlopen(name, flags) ::mantissa::cuda_kernels::cudnn_loader::open_library(name, flags)
#define dlsym(library, name) ::mantissa::cuda_kernels::cudnn_loader::find_symbol(library, name)
#include <cudnn_frontend.h>
#undef dlopen
#undef dlsym

#include "core/random.h"
#include "cuda/attention/bounds.h"
#include "cuda/device.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}

namespace mantissa::cuda_kernels {

namespace fe = cudnn_frontend;

namespace {

using namespace cuda;

constexpr size_t kOldest = 90600;                     // ragged batches with grouped heads
constexpr size_t kRefused[] = {91000, 91001, 91400};  // known wrong results
constexpr size_t kReadsOldWorkspace = 91800;  // before it, the ragged backward read workspace nobody had written
constexpr int64_t kScoreBytes = int64_t(1) << 30;
constexpr int64_t kMostScoreBytes = int64_t(4) << 30;  // of one sequence

/// The loaded library and its handle, or why there is none.
struct Library {
  cudnnHandle_t handle = nullptr;
  size_t version = 0;
  std::string missing;

  static Library& get() {
    static Library library;
    return library;
  }

 private:
  Library() {
    std::vector<std::string> places;
    if (const char* folder = std::getenv("MANTISSA_CUDNN"))
      places = {folder};
    else
      places = {"", "/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"};
    for (const std::string& place : places) {
      const std::string name = (place.empty() ? "" : place + "/") + "libcudnn.so.9";
      if ((fe::cudnn_dlhandle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL))) break;
    }
    if (!fe::cudnn_dlhandle) {
      missing = "libcudnn.so.9 was not found (MANTISSA_CUDNN names its folder)";
      return;
    }
    try {
      version = fe::detail::get_backend_version();
      const auto refused = std::find(std::begin(kRefused), std::end(kRefused), version);
      if (version < kOldest || refused != std::end(kRefused))
        missing = str("version ", version, " is refused, 90600 or later is needed and not 91000, 91001 or 91400");
      else if (fe::detail::create_handle(&handle) != CUDNN_STATUS_SUCCESS)
        missing = str("cudnnCreate failed (version ", version, ")");
    } catch (const std::exception& e) {
      missing = e.what();
    }
  }
};

enum class Kind : int64_t { kForward, kBackward, kDeterministicBackward };

/// What a plan is for: counts are rounded up.
struct PlanShape {
  Kind kind;
  Dtype dtype;
  Heads heads;
  int64_t batch, longest, tokens;  // tokens: backward only
  auto key() const {
    return std::array<int64_t, 8>{int64_t(kind), int64_t(dtype), heads.query, heads.kv,
                                  heads.size,    batch,          longest,     tokens};
  }
};

/// Rounds up to 2^k or 3 * 2^k.
int64_t bucket(int64_t n, int64_t least) {
  int64_t size = least;
  while (size < n) size = size == 1 ? 2 : size % 3 == 0 ? size / 3 * 4 : size / 2 * 3;
  return size;
}

// Names of the tensors of a graph.
enum Uid : int64_t {
  kQuery = 1,
  kKey,
  kValue,
  kOut,
  kLse,
  kDout,
  kDquery,
  kDkey,
  kDvalue,
  kLengths,
  kRowOffsets,
  kOutOffsets,
  kLseOffsets
};

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;  // null: refused
  int64_t workspace = 0;
};

Plan build_plan(const PlanShape& shape, cudnnHandle_t handle) {
  using Attributes = fe::graph::Tensor_attributes;
  using Handle = std::shared_ptr<Attributes>;
  const Heads heads = shape.heads;
  const int64_t b = shape.batch, s = shape.longest, d = heads.size, row = heads.row(), out_row = heads.query * d;
  const auto type = shape.dtype == Dtype::kF16 ? fe::DataType_t::HALF : fe::DataType_t::BFLOAT16;
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(type)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);

  const auto index = [&](Uid uid, int64_t count) {
    return graph->tensor(Attributes()
                             .set_uid(uid)
                             .set_dim({count, 1, 1, 1})
                             .set_stride({1, 1, 1, 1})
                             .set_data_type(fe::DataType_t::INT32));
  };
  const Handle lengths = index(kLengths, b), rows = index(kRowOffsets, b + 1), outs = index(kOutOffsets, b + 1),
               lses = index(kLseOffsets, b + 1);
  const auto describe = [&](Attributes& t, Uid uid, int64_t h, int64_t width, int64_t stride, const Handle& offsets) {
    t.set_uid(uid).set_dim({b, h, s, width}).set_stride({s * stride, width, stride, 1}).set_ragged_offset(offsets);
  };
  const auto input = [&](Uid uid, int64_t h, int64_t width, int64_t stride, const Handle& offsets) {
    Attributes t;
    describe(t, uid, h, width, stride, offsets);
    t.set_data_type(uid == kLse ? fe::DataType_t::FLOAT : type);
    return graph->tensor(t);
  };
  const auto output = [&](const Handle& t, Uid uid, int64_t h, int64_t width, int64_t stride, const Handle& offsets) {
    describe(*t, uid, h, width, stride, offsets);
    t->set_output(true).set_data_type(uid == kLse ? fe::DataType_t::FLOAT : type);
  };
  const Handle q = input(kQuery, heads.query, d, row, rows), k = input(kKey, heads.kv, d, row, rows),
               v = input(kValue, heads.kv, d, row, rows);
  const float scale = 1.0f / std::sqrt(float(d));
  // The log-sum-exp stays token-major: head-major with a bound on the tokens gives gradients of zero.
  if (shape.kind == Kind::kForward) {
    const auto [o, lse] = graph->sdpa(q, k, v,
                                      fe::graph::SDPA_attributes()
                                          .set_generate_stats(true)
                                          .set_attn_scale(scale)
                                          .set_causal_mask(true)
                                          .set_padding_mask(true)
                                          .set_seq_len_q(lengths)
                                          .set_seq_len_kv(lengths));
    output(o, kOut, heads.query, d, out_row, outs);
    output(lse, kLse, heads.query, 1, heads.query, lses);
  } else {
    const Handle o = input(kOut, heads.query, d, out_row, outs), dout = input(kDout, heads.query, d, out_row, outs),
                 lse = input(kLse, heads.query, 1, heads.query, lses);
    const auto [dq, dk, dv] =
        graph->sdpa_backward(q, k, v, o, dout, lse,
                             fe::graph::SDPA_backward_attributes()
                                 .set_attn_scale(scale)
                                 .set_causal_mask(true)
                                 .set_padding_mask(true)
                                 .set_seq_len_q(lengths)
                                 .set_seq_len_kv(lengths)
                                 .set_max_total_seq_len_q(shape.tokens)
                                 .set_max_total_seq_len_kv(shape.tokens)
                                 .set_deterministic_algorithm(shape.kind == Kind::kDeterministicBackward));
    output(dq, kDquery, heads.query, d, row, rows);
    output(dk, kDkey, heads.kv, d, row, rows);
    output(dv, kDvalue, heads.kv, d, row, rows);
  }
  fe::error_t status = graph->build(handle, {fe::HeurMode_t::A});
  check(status.is_good(), status.get_message());
  return {graph, graph->get_workspace_size()};
}

/// The plan of a shape, built at its first use; null when cuDNN has none (logged).
const Plan* find_plan(Exec& exec, const PlanShape& shape) {
  static auto& plans = *new std::map<std::array<int64_t, 8>, Plan>;  // never destroyed: cuDNN may be gone first
  const auto it = plans.find(shape.key());
  if (it != plans.end()) return it->second.graph ? &it->second : nullptr;
  if (capturing(exec)) return nullptr;  // a graph's body has run once before: this does not happen
  Plan& plan = plans[shape.key()];
  try {
    plan = build_plan(shape, Library::get().handle);
  } catch (const std::exception& e) {
    log_once(str("heads ", shape.heads.query, "/", shape.heads.kv, "/", shape.heads.size, " ", name_of(shape.dtype),
                 shape.kind == Kind::kForward ? " forward: " : " backward: ", e.what()));
  }
  return plan.graph ? &plan : nullptr;
}

struct Arguments {
  Tensor *out, *lse, *dqkv;  // dqkv and dout: backward only
  const Tensor *dout, *qkv, *offsets;
  int64_t longest;
  Heads heads;
};

/// Runs a plan over all sequences, plan.batch of them at a time. False, with nothing launched, when there is no plan.
bool run(Exec& exec, Kind kind, const Arguments& a) {
  const Heads heads = a.heads;
  const int64_t sequences = a.offsets->numel() - 1, size = heads.size;
  PlanShape shape{kind,
                  a.qkv->dtype(),
                  heads,
                  bucket(sequences, 1),
                  bucket(a.longest, 128),
                  kind == Kind::kForward ? 0 : bucket(a.qkv->size(0), 1024)};
  if (kind == Kind::kDeterministicBackward) {
    const int64_t score_bytes = int64_t(heads.query) * shape.longest * shape.longest * 2;
    if (score_bytes > kMostScoreBytes) {
      log_once(str("its deterministic backward would hold ", score_bytes >> 20,
                   " MiB of score gradients for a sequence of up to ", shape.longest,
                   " tokens (train.deterministic=false avoids that)"));
      return false;
    }
    shape.batch = std::min(shape.batch, std::max<int64_t>(1, kScoreBytes / score_bytes));
  }
  const Plan* plan = find_plan(exec, shape);
  if (!plan) return false;

  const int64_t groups = (sequences + shape.batch - 1) / shape.batch;
  const int64_t stride = (shape.batch + 64) / 64 * 64;  // a group's arrays are aligned
  Scratch scratch(exec);
  const auto indices = [&] { return scratch.take<int32_t>(groups * stride); };
  const SequenceBounds bounds{indices(), indices(), indices(), indices(), int(shape.batch), int(groups), int(stride)};
  char* workspace = scratch.take<char>(std::max<int64_t>(plan->workspace, 1));
  fill_sequence_bounds(exec, bounds, *a.offsets, heads);
  const auto column = [&](const Tensor* t, int64_t column) {
    return t ? static_cast<char*>(t->raw()) + column * int64_t(size_of(t->dtype())) : nullptr;
  };
  const int64_t key_column = heads.query * size, value_column = key_column + heads.kv * size;
  const cudaStream_t on = stream(exec);
  Library& library = Library::get();
  check(fe::detail::set_stream(library.handle, on) == CUDNN_STATUS_SUCCESS, "[attention] cudnnSetStream failed");
  for (int64_t group = 0; group < groups; ++group) {
    if (library.version < kReadsOldWorkspace) MANTISSA_CUDA(cudaMemsetAsync(workspace, 0, plan->workspace, on));
    const int64_t first = group * stride;
    std::unordered_map<int64_t, void*> pack = {
        {kQuery, column(a.qkv, 0)},
        {kKey, column(a.qkv, key_column)},
        {kValue, column(a.qkv, value_column)},
        {kOut, a.out->raw()},
        {kLse, a.lse->raw()},
        {kLengths, bounds.lengths + first},
        {kRowOffsets, bounds.row + first},
        {kOutOffsets, bounds.out + first},
        {kLseOffsets, bounds.lse + first},
    };
    if (kind != Kind::kForward) {
      pack[kDout] = a.dout->raw();
      pack[kDquery] = column(a.dqkv, 0);
      pack[kDkey] = column(a.dqkv, key_column);
      pack[kDvalue] = column(a.dqkv, value_column);
    }
    fe::error_t status = plan->graph->execute(library.handle, pack, workspace);
    check(status.is_good(), "[attention] cuDNN: ", status.get_message());
  }
  return true;
}

/// Largest |got - want| / (|want| + 1); infinite where one of them is not finite.
double largest_error(const Tensor& got, const Tensor& want) {
  const std::vector<float> a = to_host_float(got), b = to_host_float(want);
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(double(a[i]) - double(b[i])) / (std::abs(double(b[i])) + 1);
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

/// Runs a small ragged batch through cuDNN and through the own kernels; empty when they agree.
std::string try_out(Backend& backend, Kind kind, Dtype dtype, Heads heads) {
  Exec exec(backend);  // on the main stream, where copies are
  // Five sequences: the batch of six has an empty one.
  const std::vector<int32_t> bounds = {0, 70, 71, 72, 201, 230};
  const Tensor offsets = tensor_from<int32_t>(backend, bounds, {int64_t(bounds.size())});
  RandomStream numbers(0, 0);
  const auto noise = [&](int64_t width) {
    std::vector<uint16_t> values;
    for (int64_t i = 0; i < bounds.back() * width; ++i) {
      const float x = 2.0f * numbers.uniform() - 1.0f;
      values.push_back(dtype == Dtype::kF16 ? half_from_float(x).bits : bfloat16_from_float(x).bits);
    }
    Tensor t = exec.empty({bounds.back(), width}, dtype);
    backend.copy_from_host(t.raw(), values.data(), t.bytes());
    return t;
  };
  const int64_t width = int64_t(heads.query) * heads.size, longest = 129;
  const Tensor qkv = noise(heads.row()), dout = noise(width);
  Tensor out = exec.empty(dout.shape(), dtype), lse = exec.empty({bounds.back(), heads.query}, Dtype::kF32);
  Tensor got = exec.empty(dout.shape(), dtype), got_lse = exec.empty(lse.shape(), Dtype::kF32);
  Tensor dqkv = exec.empty(qkv.shape(), dtype), got_dqkv = exec.empty(qkv.shape(), dtype);
  own_attention_fwd(exec, out, lse, qkv, offsets, longest, heads);
  const double unit = dtype == Dtype::kF16 ? 0x1p-11 : 0x1p-8;
  double error, bound;
  if (kind == Kind::kForward) {
    if (!run(exec, kind, {&got, &got_lse, nullptr, nullptr, &qkv, &offsets, longest, heads})) return "no plan";
    error = std::max(largest_error(got, out), unit / 1e-5 * largest_error(got_lse, lse));
    bound = 4 * unit;
  } else {
    own_attention_bwd(exec, dqkv, dout, qkv, out, lse, offsets, longest, heads);
    if (!run(exec, kind, {&out, &lse, &got_dqkv, &dout, &qkv, &offsets, longest, heads})) return "no plan";
    error = largest_error(got_dqkv, dqkv);
    bound = 16 * unit;
  }
  return error <= bound ? "" : str("its results are off by ", error, " where ", bound, " is allowed");
}

/// True when cuDNN may do calls of this kind; says why not, once.
bool served(Exec& exec, Kind kind, const Tensor& qkv, Heads heads) {
  if (!is_16bit(qkv.dtype())) return false;  // nothing to say: there is no fp32 attention in cuDNN
  const int major = device_facts(exec).major;
  const Library& library = Library::get();
  std::string reason = library.missing;
  if (reason.empty() && major != 9 && major != 10) reason = str("not used on compute capability ", major, ".x");
  if (reason.empty() && heads.size % 16 != 0) reason = str("head size ", heads.size, " is not a multiple of 16");
  if (reason.empty() && qkv.numel() >= (int64_t(1) << 31)) reason = "qkv has more than 2^31 elements";
  if (!reason.empty()) {
    log_once(reason);
    return false;
  }
  static std::map<std::array<int64_t, 5>, bool> verdicts;
  const std::array<int64_t, 5> key = {int64_t(kind), int64_t(qkv.dtype()), heads.query, heads.kv, heads.size};
  const auto it = verdicts.find(key);
  if (it != verdicts.end()) return it->second;
  if (capturing(exec)) return false;
  try {
    reason = try_out(exec.backend(), kind, qkv.dtype(), heads);
  } catch (const std::exception& e) {
    reason = e.what();
  }
  if (!reason.empty())
    log_once(str("heads ", heads.query, "/", heads.kv, "/", heads.size, " ", name_of(qkv.dtype()), " (version ",
                 library.version, "): ", reason));
  return verdicts[key] = reason.empty();
}

}  // namespace

bool cudnn_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets,
                         int64_t longest, Heads heads) {
  return served(exec, Kind::kForward, qkv, heads) &&
         run(exec, Kind::kForward, {&out, &lse, nullptr, nullptr, &qkv, &offsets, longest, heads});
}

bool cudnn_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                         const Tensor& lse, const Tensor& offsets, int64_t longest, Heads heads) {
  const Kind kind = exec.deterministic ? Kind::kDeterministicBackward : Kind::kBackward;
  Tensor o = out, l = lse;  // handles: they are only read
  return served(exec, kind, qkv, heads) && run(exec, kind, {&o, &l, &dqkv, &dout, &qkv, &offsets, longest, heads});
}

}  // namespace mantissa::cuda_kernels

#endif  // MANTISSA_CUDNN_FRONTEND
