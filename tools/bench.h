// What the measurements of bench share: its flags, how a piece of work is timed and reported, and the two ceilings. The
// measurements are functions of a Bench, in bench_kernels.cpp and bench_model.cpp.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/comm.h"
#include "tools/common.h"

namespace mantissa {

struct BenchFlags {
  ModelFlags model;
  int64_t sequences = 4, length = 512;  // train, attention, rows of gemm
  int64_t batch = 8, context = 512, steps = 32, n = 8;
  int64_t repeat = 5;
  std::string recompute = "none", match = "exact";
  bool deterministic = false, states = false;
  int64_t lora_rank = 0;
  std::string gpus = "1";
  bool overlap = true, offload = false;
  std::string shard = "optimizer";

  void fields(Arguments& args) {
    model.precision = "fp32";
    args.field("model", model.model, "Hugging Face directory, .gguf file, builtin:NAME or random:CONFIG.json");
    args.stands_for("model.path");
    args.choice("device", model.device, {"auto", "cpu", "cuda"}, "auto takes a GPU when there is one");
    args.choice("precision", model.precision, {"fp16", "bf16", "fp32"}, "type of weights and activations");
    args.field("sequences", sequences, "packed sequences of train, attention and experts; prompts of rollout",
               between(1, 1 << 20));
    args.field("length", length, "their tokens", between(1, 1 << 20));
    args.field("batch", batch, "sequences decoded together (decode, attention, rollout)", between(1, 1 << 16));
    args.field("context", context, "cached tokens when decoding starts", between(1, 1 << 20));
    args.field("steps", steps, "decode steps that are timed; new tokens of a rollout's sample", between(1, 1 << 20));
    args.field("n", n, "samples per prompt (rollout)", between(1, 1 << 16));
    args.field("repeat", repeat, "timed repetitions of everything else", between(1, 1 << 20));
    args.choice("recompute", recompute, {"none", "elementwise", "mlp", "full"},
                "what backward makes again (train, update)");
    args.not_here("auto",
                  "auto chooses by the config and the data of a run, which a measurement does not have: trainer "
                  "--config F --estimate train.recompute=auto says which one a run takes");
    args.choice("match", match, {"exact", "fast"}, "rollout and training bit for bit, or the fastest kernels");
    args.field("deterministic", deterministic, "the kernels of train.deterministic: the same bits in every run");
    args.field("gpus", gpus, "processes that work together, one a GPU; auto: as many as there are");
    args.field("overlap", overlap, "gradients are summed over ranks beside backward, not after it (update)");
    args.choice("shard", shard, {"optimizer", "parameters"}, "what each process keeps a part of (update)");
    args.field("offload", offload, "masters and moments in host memory (update, step)");
    args.field("lora_rank", lora_rank, "an adapter of this rank on all linears, alone trained; 0: none",
               between(0, 4096));
    args.field("states", states, "masters and Adam's moments lie beside it, as in a run (train)");
  }
};

/// Milliseconds.
inline double milliseconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

class Bench {
 public:
  Bench(const BenchFlags& flags, Comm& comm);

  // bench_kernels.cpp: matrix products, attention, those of grouped rows, the optimizer's step.
  void gemm();
  void attention();
  void experts();
  void step();
  // bench_model.cpp: forward and backward, the same with the optimizer over all ranks, decode steps, whole rollouts.
  void train() { time_training(false); }
  void update() { time_training(true); }
  void decode();
  void rollout();
  // bench_comm.h: the collectives between ranks.
  void comm();

 private:
  using Clock = std::chrono::steady_clock;

  void time_training(bool update);
  Match match() const { return flags_.match == "exact" ? Match::kExact : Match::kFast; }
  EnginePrecision engine_precision();
  /// The model; an error where there is none.
  Model& model();
  bool on_cpu() const { return exec_.backend().name() == "cpu"; }
  /// Small normal values: products stay finite in 16 bits.
  Tensor noise(Shape shape, Dtype dtype);
  /// Milliseconds of `repeat` runs, after one to warm up.
  std::vector<double> time(const std::function<void()>& body);
  std::vector<double> time_gemm(int64_t m, int64_t n, int64_t k);
  /// Operations a second of a large square product, bytes a second of a large copy: measured when first asked for.
  double gemm_ceiling();
  double copy_ceiling();
  /// Bytes a second each way, between host memory and the devices of all ranks at once.
  double link_ceiling();
  /// Prints a line. `ideal_ms`: what the work would take at its ceiling; fraction is ideal_ms / median.
  void report(const char* bench, const std::string& shape, std::vector<double> ms, double tokens, double ideal_ms);
  /// Bytes of weights that a decode step reads.
  double weight_bytes();
  /// Bytes of keys and values of `tokens` tokens.
  double kv_bytes(double tokens);
  /// Prompts of random tokens, from a stream of their own.
  std::vector<Prompt> random_prompts(int64_t count, int64_t tokens, uint64_t stream);

  const BenchFlags& flags_;
  Comm& comm_;
  Exec exec_;
  Dtype dtype_;
  std::unique_ptr<Model> model_;
  Tensor noise_;
  double gemm_ceiling_ = 0, copy_ceiling_ = 0;
};

}  // namespace mantissa
