// bench: how fast, and how near to the machine's limit. One JSON line a measurement:
//
//   bench, shape, dtype, device, ms_min, ms_median, ms_max, tokens_per_s (null where there are none),
//   fraction, peak_bytes
//
// fraction is of a ceiling measured first in the same process: arithmetic (gemm, attention, train) of a large square
// GEMM in the same type, memory traffic (decode, rollout, step) of copying a large buffer, reads and writes counted.
#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>

#include "core/random.h"
#include "nn/optimizer.h"
#include "rl/logging/log.h"
#include "rl/train/logprobs.h"
#include "tools/bench_comm.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/launch.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

struct BenchFlags {
  ModelFlags model;
  int64_t sequences = 4, length = 512;  // train, attention, rows of gemm
  int64_t batch = 8, context = 512, steps = 32, n = 8;
  int64_t repeat = 5;
  std::string recompute = "none";
  bool deterministic = false, states = false;
  std::string gpus = "1";

  void fields(Arguments& args) {
    model.precision = "fp32";
    args.field("model", model.model, "Hugging Face directory, .gguf file, builtin:NAME or random:CONFIG.json");
    args.choice("device", model.device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
    args.choice("precision", model.precision, {"fp16", "bf16", "fp32"}, "type of weights and activations");
    args.field("sequences", sequences, "packed sequences of train and attention; prompts of rollout",
               between(1, 1 << 20));
    args.field("length", length, "their tokens", between(1, 1 << 20));
    args.field("batch", batch, "sequences decoded together (decode, attention, rollout)", between(1, 1 << 16));
    args.field("context", context, "cached tokens when decoding starts", between(1, 1 << 20));
    args.field("steps", steps, "decode steps that are timed; new tokens of a rollout's sample", between(1, 1 << 20));
    args.field("n", n, "samples per prompt (rollout)", between(1, 1 << 16));
    args.field("repeat", repeat, "timed repetitions of everything else", between(1, 1 << 20));
    args.choice("recompute", recompute, {"none", "elementwise", "mlp", "full"}, "what backward makes again (train)");
    args.field("deterministic", deterministic, "the kernels of train.deterministic: the same bits in every run");
    args.field("gpus", gpus, "processes that work together, one a GPU; auto: as many as there are");
    args.field("states", states, "masters and Adam's moments lie beside it, as in a run (train)");
  }
};

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

class Bench {
 public:
  Bench(const BenchFlags& flags, Comm& comm)
      : flags_(flags), comm_(comm), exec_(find_backend(flags.model.device)), dtype_(flags.model.dtype()) {
    exec_.deterministic = flags.deterministic;
    if (!flags.model.model.empty()) model_ = flags.model.load();
  }

  void gemm();
  void attention();
  void train() { time_training(false); }
  void update() { time_training(true); }
  void comm() { bench_comm(exec_, comm_, int(flags_.repeat)); }
  void decode();
  void rollout();
  void step();

 private:
  void time_training(bool update);
  Model& model() {
    check(model_ != nullptr, "bench: this measurement needs --model");
    return *model_;
  }
  bool on_cpu() const { return exec_.backend().name() == "cpu"; }
  Tensor noise(Shape shape, Dtype dtype);
  Tensor tokens(int64_t count);
  std::vector<double> time(const std::function<void()>& body);
  std::vector<double> time_gemm(int64_t m, int64_t n, int64_t k);
  double gemm_ceiling();
  double copy_ceiling();
  double weight_bytes();
  void report(const char* bench, const std::string& shape, std::vector<double> ms, double tokens, double fraction);

  const BenchFlags& flags_;
  Comm& comm_;
  Exec exec_;
  Dtype dtype_;
  std::unique_ptr<Model> model_;
  Tensor noise_;
  double gemm_ceiling_ = 0, copy_ceiling_ = 0;  // flop/s, bytes/s
};

/// Small normal values: products stay finite in 16 bits.
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

/// One warm-up, then `repeat` timed runs.
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
                   double fraction) {
  if (!comm_.main()) return;
  std::sort(ms.begin(), ms.end());
  const double median = ms[ms.size() / 2];
  const std::string ranks = comm_.size() > 1 ? str(",ranks=", comm_.size()) : std::string();
  tokens *= comm_.size();
  print(JsonObject()
            .add("bench", bench)
            .add("shape", shape + ranks + (flags_.deterministic ? ",deterministic" : ""))
            .add("dtype", name_of(dtype_))
            .add("device", exec_.backend().description())
            .add("ms_min", ms.front())
            .add("ms_median", median)
            .add("ms_max", ms.back())
            .add("tokens_per_s", tokens > 0 ? 1000 * tokens / median : std::numeric_limits<double>::quiet_NaN())
            .add("fraction", fraction / median)
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

/// In `report`, fraction is (milliseconds at the ceiling) / (median milliseconds).
void Bench::gemm() {
  gemm_ceiling();
  if (!model_) return;
  const ModelConfig& c = model_->config;
  const int64_t m = flags_.sequences * flags_.length, attention = int64_t(c.heads.query) * c.heads.size;
  const struct {
    const char* name;
    int64_t n, k;
  } products[] = {{"qkv", c.heads.row(), c.width},
                  {"o", c.width, attention},
                  {"gate_up", 2 * c.feed_forward, c.width},
                  {"down", c.width, c.feed_forward},
                  {"head", c.vocab_size, c.width}};
  for (const auto& p : products) {
    const int64_t rows =
        p.n == c.vocab_size ? std::min<int64_t>(m, on_cpu() ? 256 : 2048) : m;  // logits come in chunks
    const double ideal = 2000.0 * double(rows) * double(p.n) * double(p.k) / gemm_ceiling();
    report("gemm", str(p.name, ",M=", rows, ",N=", p.n, ",K=", p.k), time_gemm(rows, p.n, p.k), 0, ideal);
  }
}

void Bench::attention() {
  const Heads heads = model().config.heads;
  const int64_t s = flags_.sequences, l = flags_.length, total = s * l, width = int64_t(heads.query) * heads.size;
  std::vector<int32_t> bounds;
  for (int64_t i = 0; i <= s; ++i) bounds.push_back(int32_t(i * l));
  const Tensor offsets = tensor_from<int32_t>(exec_.backend(), bounds, {s + 1});
  const Tensor qkv = noise({total, heads.row()}, dtype_), dout = noise({total, width}, dtype_);
  Tensor out = exec_.empty({total, width}, dtype_), lse = exec_.empty({total, int64_t(heads.query)}, Dtype::kF32);
  Tensor dqkv = exec_.empty(qkv.shape(), dtype_);
  const std::string shape = str(",H=", heads.query, ",G=", heads.kv, ",D=", heads.size);
  // Two products over the causal half forward, five backward.
  const double product = 1000.0 * double(s) * double(l) * double(l) * double(width) / gemm_ceiling();
  const std::string packed = str("S=", s, ",L=", l, shape);
  report("attention_fwd", packed, time([&] { MANTISSA_RUN(exec_, attention_fwd, out, lse, qkv, offsets, l, heads); }),
         double(total), 2 * product);
  report("attention_bwd", packed,
         time([&] { MANTISSA_RUN(exec_, attention_bwd, dqkv, dout, qkv, out, lse, offsets, l, heads); }), double(total),
         5 * product);

  const int64_t b = flags_.batch, kv = int64_t(heads.kv) * heads.size;
  const int64_t pages_each = (flags_.context + kAttentionTile - 1) / kAttentionTile;
  const Tensor pages = noise({2, b * pages_each, kAttentionTile, kv}, dtype_), row = noise({b, heads.row()}, dtype_);
  std::vector<int32_t> table, lengths(size_t(b), int32_t(flags_.context));
  for (int32_t i = 0; i < int32_t(b * pages_each); ++i) table.push_back(i);
  const Tensor device_table = tensor_from<int32_t>(exec_.backend(), table, {b, pages_each});
  const Tensor device_lengths = tensor_from<int32_t>(exec_.backend(), lengths, {b});
  Tensor decoded = exec_.empty({b, width}, dtype_);
  const double bytes = double(b * flags_.context * 2 * kv) * double(size_of(dtype_));
  const double ideal = 1000.0 * bytes / copy_ceiling();
  report("attention_decode", str("B=", b, ",context=", flags_.context, shape),
         time([&] { MANTISSA_RUN(exec_, attention_decode, decoded, row, pages, device_table, device_lengths, heads); }),
         double(b), ideal);
}

/// Forward and backward of packed sequences: mean NLL of every next token.
/// Forward and backward of one micro-batch; `update`: and all that makes it an optimizer step, over all ranks.
void Bench::time_training(bool update) {
  const ModelConfig& c = model().config;
  const int64_t s = flags_.sequences, l = flags_.length;
  check(l <= c.max_positions, "--length must be at most the model's max_position_embeddings ", c.max_positions,
        ": got ", l);
  RandomStream random(1, 1);
  TrainBatch batch;
  batch.offsets = {0};
  for (int64_t i = 0; i < s; ++i) {
    for (int64_t t = 0; t < l; ++t) {
      batch.scored.push_back(int32_t(batch.ids.size()));
      batch.ids.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
      batch.targets.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
      batch.positions.push_back(int32_t(t));
    }
    batch.offsets.push_back(int32_t(batch.ids.size()));
  }
  const DeviceBatch sent(exec_.backend(), batch);
  TrainConfig config;
  config.recompute = flags_.recompute;
  const LogprobOptions options{.lm_head = dtype_, .residual = dtype_};
  std::optional<Optimizer> optimizer;
  const bool states = flags_.states || update;
  if (states) optimizer.emplace(exec_, model().weights, OptimConfig(), ScalerConfig(), 1000000);
  const ParamBuffer grads = states ? model().weights.grad : ParamBuffer(exec_, model().weights.layout, Dtype::kF32);
  const auto body = [&] {
    if (update) optimizer->zero_grad();
    {
      Tape tape(exec_, true, config.recompute_tier());
      const Var logprobs = batch_logprobs(tape, model(), sent, options, &grads).logprobs;
      tape.backward(ops::affine(tape, ops::sum(tape, logprobs), -1.0 / double(s * l * comm_.size())));
    }
    if (!update) return;
    comm_.all_reduce(exec_, grads.flat());
    optimizer->step();
  };
  double weights = c.tied_head ? double(c.vocab_size * c.width) : 0.0;  // elements of matrices that are multiplied by
  for (const ParamInfo& p : model().weights.layout.params())
    if (p.decay && p.name != "embedding.weight") weights += double(p.shape.numel());
  const double attention =
      double(c.layers) * 2 * double(l) * double(c.heads.query) * c.heads.size;  // 2 causal products
  const double flops = 3 * double(s * l) * (2 * weights + attention);
  const double ideal = 1000.0 * flops / gemm_ceiling();
  report(update ? "update" : "train",
         str("S=", s, ",L=", l, ",recompute=", flags_.recompute, flags_.states ? ",states" : ""), time(body),
         double(s * l), ideal);
}

double Bench::weight_bytes() {
  double elements = 0;
  for (const ParamInfo& p : model().weights.layout.params())
    if (p.name != "embedding.weight" || model().config.tied_head) elements += double(p.shape.numel());
  return elements * double(size_of(dtype_));
}

/// The engine itself: prompts of random tokens, no stop token. A step is timed from one poll of `cancelled` to the
/// next.
void Bench::decode() {
  const ModelConfig& c = model().config;
  check(flags_.context + flags_.steps + 2 <= c.max_positions,
        "--context and --steps must leave room within the model's ", "max_position_embeddings ", c.max_positions,
        ": got ", flags_.context, " and ", flags_.steps);
  copy_ceiling();
  RandomStream random(1, 2);
  std::vector<Prompt> prompts(size_t(flags_.batch));
  std::vector<Request> requests;
  for (Prompt& p : prompts) {
    p.id = int64_t(requests.size());
    for (int64_t t = 0; t < flags_.context; ++t) p.ids.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
    requests.push_back({.prompt = &p});
  }
  RolloutConfig rollout;
  rollout.memory_fraction = 0.9;
  rollout.max_batch = flags_.batch;
  // The first token comes from the prefill, and the first decode step warms up.
  rollout.sampling.max_new_tokens = flags_.steps + 2;
  const PrecisionConfig precision{.train = flags_.model.precision, .rollout = flags_.model.precision};
  Engine engine(model(), rollout, precision.engine(rollout), flags_.deterministic);
  std::vector<double> ms;
  int64_t seen = 0;
  Clock::time_point last;
  GenerateOptions options = generate_options(engine, rollout, {}, 0);
  options.cancelled = [&] {
    const Clock::time_point now = Clock::now();
    if (engine.stats().decode_steps > seen && seen > 0) ms.push_back(milliseconds(now - last));
    seen = engine.stats().decode_steps;
    last = now;
    return false;
  };
  exec_.backend().reset_peak();
  engine.generate(requests, options);
  const double kv = double(flags_.batch) * (double(flags_.context) + double(flags_.steps) / 2) * double(c.layers) * 2 *
                    double(c.heads.kv) * c.heads.size * double(size_of(dtype_));
  const double ideal = 1000.0 * (weight_bytes() + kv) / copy_ceiling();
  report("decode", str("B=", flags_.batch, ",context=", flags_.context), ms, double(flags_.batch), ideal);
}

/// The engine from the first prefill to the last token: prompts of random tokens, no stop token, so every sample has
/// --steps tokens. The masters, moments and gradients of training lie beside it, as in a run. tokens_per_s counts
/// generated tokens; the ideal reads the weights once a step and every sample's cache up to its length.
void Bench::rollout() {
  const ModelConfig& c = model().config;
  check(flags_.length + flags_.steps <= c.max_positions,
        "--length and --steps must fit the model's max_position_embeddings ", c.max_positions, ": got ", flags_.length,
        " and ", flags_.steps);
  copy_ceiling();
  const Optimizer optimizer(exec_, model().weights, OptimConfig(), ScalerConfig(), 1000000);
  RandomStream random(1, 3);
  std::vector<Prompt> prompts(size_t(flags_.sequences));
  std::vector<Request> requests;
  for (Prompt& p : prompts) {
    p.id = int64_t(requests.size());
    for (int64_t t = 0; t < flags_.length; ++t) p.ids.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
    requests.push_back({.prompt = &p, .n = int(flags_.n)});
  }
  RolloutConfig config;
  config.memory_fraction = 0.75;  // leaves the activations of training what they need
  config.max_batch = flags_.batch;
  config.sampling.max_new_tokens = flags_.steps;
  const PrecisionConfig precision{.train = flags_.model.precision, .rollout = flags_.model.precision};
  Engine engine(model(), config, precision.engine(config), flags_.deterministic);
  GenerateOptions options = generate_options(engine, config, {}, 0);
  options.sampling.max_new_tokens = 2;
  engine.generate(requests, options);  // warm-up: the plans of products; graphs are recorded in the first run
  options.sampling.max_new_tokens = flags_.steps;
  exec_.backend().reset_peak();
  std::vector<double> ms;
  for (int64_t i = 0; i < flags_.repeat; ++i) {
    const Clock::time_point start = Clock::now();
    engine.generate(requests, options);
    ms.push_back(milliseconds(Clock::now() - start));
  }
  const double samples = double(flags_.sequences * flags_.n), tokens = samples * double(flags_.steps);
  const double kv = tokens * (double(flags_.length) + double(flags_.steps) / 2) * double(c.layers) * 2 *
                    double(c.heads.kv) * c.heads.size * double(size_of(dtype_));
  const double steps = tokens / double(std::min(flags_.batch, flags_.sequences * flags_.n));
  const double ideal = 1000.0 * (weight_bytes() * steps + kv) / copy_ceiling();
  report("rollout",
         str("prompts=", flags_.sequences, ",n=", flags_.n, ",length=", flags_.length, ",new=", flags_.steps,
             ",B=", flags_.batch),
         ms, tokens, ideal);
}

/// Gradient cleared, norm, finite check, clip, AdamW and the 16-bit copy over all parameters.
void Bench::step() {
  copy_ceiling();
  Optimizer optimizer(exec_, model().weights, OptimConfig(), ScalerConfig(), 1000000);
  const double n = double(model().weights.layout.numel());
  // Gradient written and read twice; master, m and v read and written; the 16-bit copy written.
  const double bytes = n * (3 * 4 + 3 * 8 + (is_16bit(dtype_) ? 2 : 0));
  const auto body = [&] {
    optimizer.zero_grad();
    optimizer.step();
  };
  report("step", str("parameters=", model().weights.layout.numel()), time(body), 0, 1000.0 * bytes / copy_ceiling());
}

}  // namespace

int bench_main(int argc, char** argv) {
  BenchFlags flags;
  std::vector<std::string> words;
  Arguments args(
      "bench",
      "Measures gemm (a large one, and the model's shapes), attention, train (forward and backward), update (the same "
      "with the optimizer, over all ranks), decode and rollout (the rollout engine) or step (the optimizer), one JSON "
      "line each, with the fraction of a ceiling measured in the same process; or comm (the collectives between ranks).");
  args.words("what", words, "gemm, attention, train, update, decode, rollout, step, comm");
  args.required();
  flags.fields(args);
  if (!args.parse(argc, argv)) return 0;
  const std::pair<const char*, void (Bench::*)()> all[] = {{"gemm", &Bench::gemm},     {"attention", &Bench::attention},
                                                           {"train", &Bench::train},   {"update", &Bench::update},
                                                           {"decode", &Bench::decode}, {"rollout", &Bench::rollout},
                                                           {"step", &Bench::step},     {"comm", &Bench::comm}};
  std::vector<void (Bench::*)()> chosen;
  for (const std::string& word : words) {
    const auto* it = std::find_if(std::begin(all), std::end(all), [&](const auto& b) { return word == b.first; });
    check(it != std::end(all), "bench: must be gemm, attention, train, update, decode, rollout, step or comm: got \"",
          word, "\"");
    check(word == "gemm" || word == "comm" || !flags.model.model.empty(), "bench ", word, ": --model is required");
    chosen.push_back(it->second);
  }
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
