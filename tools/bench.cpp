// bench: how fast, and how near to the machine's limit. One JSON line a measurement:
//
//   bench, shape, match, dtype, device, ms_min, ms_median, ms_max, tokens_per_s (null where there are none),
//   fraction, peak_bytes
//
// fraction is of a ceiling measured first in the same process: arithmetic (gemm, attention, train) of a large square
// GEMM in the same type, memory traffic (decode, rollout, step) of copying a large buffer, reads and writes counted; of
// experts it is of the same work with one matrix.
#include "tools/bench.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "core/random.h"
#include "core/registry.h"
#include "core/text.h"
#include "nn/adapt.h"
#include "tools/bench_comm.h"
#include "tools/json_lines.h"
#include "tools/launch.h"
#include "tools/programs.h"

namespace mantissa {

Bench::Bench(const BenchFlags& flags, Comm& comm)
    : flags_(flags), comm_(comm), exec_(find_backend(flags.model.device)), dtype_(flags.model.dtype()) {
  exec_.deterministic = flags.deterministic;
  exec_.match = match();
  if (flags.model.model.empty()) return;
  const Shard shard{comm.rank(), comm.size()};
  const bool parts = flags.shard == "parameters";
  check(!parts || flags.lora_rank == 0, "bench: --shard parameters is for models without --lora-rank");
  model_ =
      flags.model.load(flags.lora_rank > 0 ? Shard() : shard, parts ? Sharding::kParameters : Sharding::kOptimizer);
  if (flags.offload) model_->params.placement = Placement::kHost;
  if (flags.lora_rank == 0) return;
  add_adapter(*model_, {.rank = flags.lora_rank, .alpha = 16, .targets = parse_targets({"all-linear"}, "bench")}, false,
              shard, model_->params.placement);
  draw_adapter(*model_, "kaiming", 1);
  const std::string obstacle = exec_.backend().exact_obstacle(
      {.compute = dtype_, .kv_cache = dtype_, .lm_head = dtype_, .adapter = common_inputs(model_->config)});
  check(exec_.match != Match::kExact || obstacle.empty(), "--lora-rank: --match exact cannot be had: ", obstacle);
}

void Bench::comm() {
  bench_comm(exec_, comm_, int(flags_.repeat));
}

Model& Bench::model() {
  check(model_ != nullptr, "bench: this measurement needs --model");
  return *model_;
}

Tensor Bench::noise(Shape shape, Dtype dtype) {
  constexpr int64_t kValues = 1048573;  // made once and repeated; a prime, so that no two rows are the same
  if (!noise_.defined()) {
    RandomStream random(1, 0);
    std::vector<float> values(size_t(kValues), 0.0f);
    for (float& v : values) v = 0.1f * random.normal();
    noise_ = tensor_from<float>(exec_.backend(), values, {kValues});
  }
  Tensor out = exec_.empty(shape, dtype);
  const Tensor flat = out.view({out.numel()});
  for (int64_t begin = 0; begin < out.numel(); begin += kValues) {
    const int64_t end = std::min(out.numel(), begin + kValues);
    Tensor part = flat.slice(begin, end);
    MANTISSA_RUN(exec_, cast, part, noise_.slice(0, end - begin));
  }
  return out;
}

std::vector<double> Bench::time(const std::function<void()>& body) {
  body();
  exec_.backend().synchronize();
  exec_.backend().reset_peak();
  std::vector<double> ms;
  for (int64_t i = 0; i < flags_.repeat; ++i) {
    comm_.barrier();
    const Clock::time_point start = Clock::now();
    body();
    exec_.backend().synchronize();
    ms.push_back(milliseconds(Clock::now() - start));
  }
  return comm_.reduce(ms, Reduce::kMax);
}

void Bench::report(const char* bench, const std::string& shape, std::vector<double> ms, double tokens,
                   double ideal_ms) {
  if (!comm_.main()) return;
  std::sort(ms.begin(), ms.end());
  const double median = ms[ms.size() / 2];
  const std::string ranks = comm_.size() > 1 ? str(",ranks=", comm_.size()) : std::string();
  tokens *= comm_.size();
  print(JsonObject()
            .add("bench", bench)
            .add("shape", shape + ranks + (flags_.deterministic ? ",deterministic" : ""))
            .add("match", flags_.match)
            .add("dtype", name_of(dtype_))
            .add("device", exec_.backend().description())
            .add("ms_min", ms.front())
            .add("ms_median", median)
            .add("ms_max", ms.back())
            .add("tokens_per_s", tokens > 0 ? 1000 * tokens / median : std::numeric_limits<double>::quiet_NaN())
            .add("fraction", ideal_ms / median)
            .add("peak_bytes", int64_t(exec_.backend().memory().peak)));
}

std::vector<double> Bench::time_gemm(int64_t m, int64_t n, int64_t k) {
  const Tensor a = noise({m, k}, dtype_), b = noise({n, k}, dtype_);
  Tensor c = exec_.empty({m, n}, dtype_);
  return time([&] { MANTISSA_RUN(exec_, matmul, c, a, b, Trans::kNT, false); });
}

double Bench::gemm_ceiling() {
  if (gemm_ceiling_ > 0) return gemm_ceiling_;
  const int64_t n = on_cpu() ? 1536 : 8192;
  const std::vector<double> ms = time_gemm(n, n, n);
  const double best = *std::min_element(ms.begin(), ms.end());
  gemm_ceiling_ = 2000.0 * double(n) * double(n) * double(n) / best;
  report("gemm_ceiling", str("M=", n, ",N=", n, ",K=", n), ms, 0, best);
  return gemm_ceiling_;
}

double Bench::copy_ceiling() {
  if (copy_ceiling_ > 0) return copy_ceiling_;
  const int64_t n = int64_t(1) << (on_cpu() ? 26 : 28);
  const Tensor from = exec_.zeros({n}, Dtype::kF32);
  Tensor to = exec_.zeros({n}, Dtype::kF32);
  const std::vector<double> ms = time([&] { MANTISSA_RUN(exec_, cast, to, from); });
  const double best = *std::min_element(ms.begin(), ms.end());
  copy_ceiling_ = 1000.0 * double(2 * from.bytes()) / best;
  report("copy_ceiling", str("bytes=", from.bytes()), ms, 0, best);
  return copy_ceiling_;
}

namespace {

/// Throws where a flag is given that none of the chosen measurements reads.
void check_flags(const Arguments& args, const std::vector<std::string>& words) {
  using Words = std::vector<std::string>;
  const Words shaped = {"gemm", "attention", "experts", "train", "update", "rollout"}, training = {"train", "update"};
  const std::pair<const char*, Words> readers[] = {
      {"model", {"gemm", "attention", "experts", "train", "update", "decode", "rollout", "step"}},
      {"sequences", shaped},
      {"length", shaped},
      {"batch", {"attention", "decode", "rollout"}},
      {"context", {"attention", "decode"}},
      {"steps", {"decode", "rollout"}},
      {"n", {"rollout"}},
      {"repeat", {"gemm", "attention", "experts", "train", "update", "rollout", "step", "comm"}},
      {"recompute", training},
      {"states", training},
      {"overlap", {"update"}},
      {"shard", {"update"}},
      {"offload", {"train", "update", "rollout", "step"}},
      {"lora-rank", {"train", "update", "decode", "rollout", "step"}}};
  for (const auto& [flag, readable] : readers) {
    const bool read =
        std::ranges::any_of(words, [&](const auto& word) { return std::ranges::count(readable, word) > 0; });
    check(read || !args.given(flag), "--", flag, ": belongs to bench ", join(readable), ", got bench ",
          join(words, " "));
  }
}

}  // namespace

int bench_main(int argc, char** argv) {
  BenchFlags flags;
  std::vector<std::string> words;
  Arguments args(
      "bench",
      "Measures gemm (a large one, and the model's shapes), attention, experts (products of grouped rows), train (forward and backward), update (the same "
      "with the optimizer, over all ranks), decode and rollout (the rollout engine) or step (the optimizer), one JSON "
      "line each, with the fraction of a ceiling measured in the same process; or comm (the collectives between ranks).");
  args.words("what", words, "gemm, attention, experts, train, update, decode, rollout, step, comm");
  args.required();
  flags.fields(args);
  if (!args.parse(argc, argv)) return 0;
  const std::pair<const char*, void (Bench::*)()> all[] = {
      {"gemm", &Bench::gemm},       {"attention", &Bench::attention}, {"experts", &Bench::experts},
      {"train", &Bench::train},     {"update", &Bench::update},       {"decode", &Bench::decode},
      {"rollout", &Bench::rollout}, {"step", &Bench::step},           {"comm", &Bench::comm}};
  std::vector<void (Bench::*)()> chosen;
  for (const std::string& word : words) {
    const auto* it = std::find_if(std::begin(all), std::end(all), [&](const auto& b) { return word == b.first; });
    check(it != std::end(all),
          "bench: must be gemm, attention, experts, train, update, decode, rollout, step or comm: got \"", word, "\"");
    check(word == "gemm" || word == "comm" || !flags.model.model.empty(), "bench ", word, ": --model is required");
    chosen.push_back(it->second);
  }
  check_flags(args, words);
  const std::optional<Place> place = own_place();
  if (!place)
    if (const int ranks = count_ranks(flags.gpus, flags.model.device, "--gpus"); ranks > 1)
      return launch_ranks(ranks, argc, argv);
  return run_as_rank(place, flags.model.device, [&](Comm& comm) {
    Bench bench(flags, comm);
    for (const auto run : chosen) (bench.*run)();
    return 0;
  });
}

}  // namespace mantissa
