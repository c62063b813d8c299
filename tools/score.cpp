// score: {"ids"} -> {"logprobs"}, position t scoring ids[t+1], and with --grads the gradient of the mean NLL.
//
// Lines are packed in order under a token budget; logits exist for a chunk of tokens at a time. In 16 bits the gradient
// is made under loss scale 2^16, halved until every parameter's gradient is finite, and written unscaled in fp32.
#include <algorithm>
#include <cmath>

#include "autograd/nonfinite.h"
#include "core/file.h"
#include "nn/formats/hf.h"
#include "nn/formats/peft.h"
#include "nn/model.h"
#include "rl/logging/log.h"
#include "rl/train/logprobs.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

constexpr double kFirstScale = 65536.0, kLastScale = 1.0 / 65536.0;

struct ScoreLine {
  std::vector<int32_t> ids;
  std::string where;
};

std::vector<ScoreLine> read_lines(const std::string& path) {
  std::vector<ScoreLine> lines;
  for (JsonLines in(path); in.next();) lines.push_back({in.ids("ids"), in.where()});
  return lines;
}

void check_lines(const std::vector<ScoreLine>& lines, const ModelConfig& config) {
  for (const ScoreLine& line : lines) {
    const int64_t length = int64_t(line.ids.size());
    check(length <= config.max_positions, line.where, ": the model has ", config.max_positions,
          " positions (max_position_embeddings): got ", length, " ids");
    for (int64_t i = 0; i < length; ++i)
      check(line.ids[size_t(i)] < config.vocab_size, line.where, ": \"ids\" entry ", i, " must lie in [0, ",
            config.vocab_size, "): got ", line.ids[size_t(i)]);
  }
}

/// Lines [begin, end) as one packed batch; every position but a line's last is an input and is scored.
TrainBatch pack(const std::vector<ScoreLine>& lines, size_t begin, size_t end) {
  TrainBatch batch;
  batch.offsets = {0};
  for (size_t i = begin; i < end; ++i) {
    const std::vector<int32_t>& ids = lines[i].ids;
    if (ids.size() < 2) continue;
    for (size_t t = 0; t + 1 < ids.size(); ++t) {
      batch.scored.push_back(int32_t(batch.ids.size()));
      batch.ids.push_back(ids[t]);
      batch.positions.push_back(int32_t(t));
      batch.targets.push_back(ids[t + 1]);
    }
    batch.offsets.push_back(int32_t(batch.ids.size()));
  }
  return batch;
}

/// Calls use(batch, first line, last line) for each packed batch of at most `budget` tokens (a longer line goes alone).
template <class Use>
void for_each_batch(const std::vector<ScoreLine>& lines, int64_t budget, Use use) {
  for (size_t begin = 0; begin < lines.size();) {
    size_t end = begin;
    for (int64_t tokens = 0; end < lines.size(); ++end) {
      tokens += int64_t(lines[end].ids.size());
      if (end > begin && tokens > budget) break;
    }
    use(pack(lines, begin, end), begin, end);
    begin = end;
  }
}

class Scorer {
 public:
  Scorer(const Model& model, const std::vector<ScoreLine>& lines, int64_t budget, const LogprobOptions& options)
      : exec_(*model.backend), model_(model), lines_(lines), budget_(budget), options_(options) {}

  void print_logprobs() {
    int64_t overflowed = 0;
    for_each_batch(lines_, budget_, [&](const TrainBatch& batch, size_t begin, size_t end) {
      std::vector<float> logprobs;
      if (!batch.ids.empty()) {
        Tape tape(exec_, false);
        logprobs = to_host<float>(
            batch_logprobs(tape, model_, DeviceBatch(exec_.backend(), batch), options_).logprobs.value());
      }
      size_t at = 0;
      for (size_t i = begin; i < end; ++i) {
        const size_t count = std::max<size_t>(lines_[i].ids.size(), 1) - 1;
        const std::span<const float> of_line = std::span(logprobs).subspan(at, count);
        overflowed += !std::ranges::all_of(of_line, [](float x) { return std::isfinite(x); });
        print(JsonObject().add("logprobs", of_line));
        at += count;
      }
    });
    if (overflowed > 0)
      log_warning(str(overflowed, " of ", lines_.size(),
                      " lines have log-probs that are not finite (null): the forward "
                      "pass overflowed in ",
                      name_of(model_.params.compute.dtype()), ", and what they say means nothing"));
  }

  /// d(mean NLL over all scored tokens) / d(parameter), fp32; with an adapter of its parameters alone.
  ParamBuffer gradients() {
    const ParamLayout& layout = model_.trained().layout;
    const bool scaled = is_16bit(model_.params.compute.dtype());
    for (double scale = scaled ? kFirstScale : 1.0; scale >= kLastScale; scale /= 2) {
      ParamBuffer grads(exec_, layout, Dtype::kF32);
      accumulate(grads, scale, {});
      Tensor flat = grads.flat();
      if (position_of_nonfinite(exec_, flat) < 0) {
        if (scale != 1.0) MANTISSA_RUN(exec_, unary, flat, flat, Unary::kAffine, 1.0 / scale, 0.0);
        log_info(str("gradients made with loss scale ", scale));
        return grads;
      }
      if (!scaled) break;
    }
    NonFiniteReport report;
    ParamBuffer grads(exec_, layout, Dtype::kF32);
    accumulate(grads, 1.0, find_first_nonfinite(exec_, report));
    fail("the gradient is not finite at any loss scale: ", report.text());
  }

 private:
  void accumulate(ParamBuffer& grads, double scale, const Observer& observer) {
    int64_t scored = 0;
    for (const ScoreLine& line : lines_) scored += std::max<int64_t>(int64_t(line.ids.size()), 1) - 1;
    check(scored > 0, "--grads: no line holds two ids, so nothing is scored");
    StepState state;
    state.loss_scale = float(scale);
    const Tensor device_state = state_tensor(exec_.backend(), state);
    for_each_batch(lines_, budget_, [&](const TrainBatch& batch, size_t, size_t) {
      if (batch.ids.empty()) return;
      Tape tape(exec_, true);
      if (observer) tape.set_observer(observer);
      const DeviceBatch sent(exec_.backend(), batch);
      const Var logprobs = batch_logprobs(tape, model_, sent, options_, &grads, device_state).logprobs;
      tape.backward(ops::affine(tape, ops::sum(tape, logprobs), -1.0 / double(scored)));
    });
  }

  Exec exec_;
  const Model& model_;
  const std::vector<ScoreLine>& lines_;
  int64_t budget_;
  LogprobOptions options_;
};

}  // namespace

int score_main(int argc, char** argv) {
  ModelFlags flags;
  flags.precision = "fp32";
  std::string input, grads;
  int64_t batch_tokens = 2048, head_chunk = 0;
  Arguments args("score",
                 "Log-probs of each line {\"ids\": [...]} as {\"logprobs\": [...]}: position t scores ids[t+1].");
  flags.fields(args);
  args.field("input", input, "JSON lines; - is standard input");
  args.not_empty();
  args.required();
  args.field("grads", grads,
             "also write d(mean NLL over all scored tokens)/d(parameter), fp32, under Hugging Face names to this "
             ".safetensors file; with --adapter those of the adapter, under PEFT's names");
  args.not_empty();
  args.field("batch_tokens", batch_tokens, "tokens packed into one pass", between(1, 1 << 24));
  args.field("head_chunk", head_chunk, "tokens whose logits exist at once; 0 chooses for the device",
             between(0, 1 << 24));
  if (!args.parse(argc, argv)) return 0;

  check_outputs({{"--grads", grads, OutputKind::kSafetensors}}, {input, flags.model, flags.adapter});
  const std::vector<ScoreLine> lines = read_lines(input);
  const std::unique_ptr<Model> model = flags.load();
  check_lines(lines, model->config);
  Scorer scorer(*model, lines, batch_tokens,
                {.lm_head = flags.dtype(), .residual = flags.dtype(), .head_chunk = head_chunk});
  scorer.print_logprobs();
  if (!grads.empty()) {
    const ParamBuffer buffer = scorer.gradients();
    write_safetensors(grads, model->adapter ? adapter_tensors(*model, buffer)
                                            : hf_views(model->config, model->decoder->params(), buffer));
  }
  return 0;
}

}  // namespace mantissa
