// mismatch: how far rollout and training are apart on the same tokens. Rollouts are sampled by the engine in
// one precision and rounding (mu), then scored by the training path (pi_old) as a training step would before
// its update. With --matrix it measures every combination of the given types and sets them side by side.
//
// A cell is one combination. What the rollout side of a cell is (rollout, kv_cache, lm_head, residual,
// rounding) decides its samples; cells that share it score the same samples.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <optional>

#include "core/file.h"
#include "core/text.h"
#include "rl/logging/log.h"
#include "rl/text/stop.h"
#include "rl/train/batcher.h"
#include "rl/train/logprobs.h"
#include "rl/train/mismatch.h"
#include "tools/common.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

struct Cell {
  PrecisionConfig precision;
  std::string rounding;

  std::string rollout_side() const {
    return str(precision.rollout, ' ', precision.kv_cache, ' ', precision.lm_head, ' ', precision.residual, ' ',
               rounding);
  }
  std::string name() const {
    return str("rollout ", precision.rollout, ", train ", precision.train, ", kv_cache ", precision.kv_cache,
               ", lm_head ", precision.lm_head, ", residual ", precision.residual, ", rounding ", rounding);
  }
};

/// An axis of the matrix: its name, the values it may take, how a value enters a cell.
struct Axis {
  const char* name;
  std::vector<std::string> values;
  void (*set)(Cell&, const std::string&);
};

const std::vector<Axis>& axes() {
  static const std::vector<std::string> kTypes = {"fp16", "bf16", "fp32"},
                                        kTypesOrAuto = {"auto", "fp16", "bf16", "fp32"};
  static const std::vector<Axis> kAxes = {
      {"precision", kTypes, [](Cell& c, const std::string& v) { c.precision.rollout = c.precision.train = v; }},
      {"rollout", kTypes, [](Cell& c, const std::string& v) { c.precision.rollout = v; }},
      {"train", kTypes, [](Cell& c, const std::string& v) { c.precision.train = v; }},
      {"kv_cache", kTypesOrAuto, [](Cell& c, const std::string& v) { c.precision.kv_cache = v; }},
      {"lm_head", kTypesOrAuto, [](Cell& c, const std::string& v) { c.precision.lm_head = v; }},
      {"residual", {"compute", "fp32"}, [](Cell& c, const std::string& v) { c.precision.residual = v; }},
      {"rounding", {"same", "peer"}, [](Cell& c, const std::string& v) { c.rounding = v; }},
  };
  return kAxes;
}

/// `base` under every combination of the axes' values, the first axis varying slowest. "precision=fp16,bf16".
std::vector<Cell> make_cells(const Cell& base, const std::vector<std::string>& matrix) {
  std::vector<Cell> cells{base};
  for (const std::string& text : matrix) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const auto axis = std::find_if(axes().begin(), axes().end(), [&](const Axis& a) { return a.name == name; });
    std::vector<std::string> names;
    for (const Axis& a : axes()) names.push_back(a.name);
    check(equals != std::string::npos && axis != axes().end(), "--matrix takes AXIS=VALUE[,VALUE...] with AXIS one of ",
          join(names), ": got \"", text, "\"");
    std::vector<Cell> product;
    for (const Cell& cell : cells)
      for (const std::string& value : split(text.substr(equals + 1), ',')) {
        check(std::find(axis->values.begin(), axis->values.end(), value) != axis->values.end(), "--matrix ", name,
              " takes ", join(axis->values), ": got \"", value, "\" in \"", text, "\"");
        axis->set(product.emplace_back(cell), value);
      }
    cells = std::move(product);
  }
  return cells;
}

/// Leaves out the cells that cannot work and says why; none left is an error.
std::vector<Cell> workable(const std::vector<Cell>& cells) {
  std::vector<Cell> kept;
  for (const Cell& cell : cells) try {
      cell.precision.validate();
      kept.push_back(cell);
    } catch (const Error& e) {
      if (cells.size() == 1) throw;
      log_warning(str("left out ", cell.name(), ": ", e.what()));
    }
  check(!kept.empty(), "--matrix leaves no combination that works");
  return kept;
}

/// Log-probs of the rollouts from both sides, sequence by sequence: sequence s owns [offsets[s],
/// offsets[s+1]).
struct Sides {
  std::vector<float> rollout, old;
  std::vector<int32_t> offsets{0};
};

/// Loads weights in the training type, and a rollout copy when that type is another.
std::unique_ptr<Model> load(const std::string& path, Exec& exec, const PrecisionConfig& precision) {
  const Dtype train = precision.train_dtype(), rollout = precision.rollout_dtype();
  auto model = load_model(path, exec.backend(), train, train != rollout);
  if (train != rollout) {
    model->weights.rollout = ParamBuffer(exec, model->weights.layout, rollout);
    refresh_copies(exec, model->weights);
  }
  return model;
}

using Completions = std::vector<std::vector<Completion>>;

/// Scores all samples by the training path, in the packing of an update.
Sides score_rollouts(Exec& exec, const Model& model, const std::vector<Prompt>& prompts, const Completions& completions,
                     int64_t batch_tokens, const LogprobOptions& options) {
  std::vector<TrainSequence> sequences;
  for (size_t i = 0; i < prompts.size(); ++i)
    for (const Completion& completion : completions[i])
      sequences.push_back({.prompt = &prompts[i], .completion = &completion});
  Sides sides;
  for (const MiniBatch& mini : make_mini_batches(sequences, int64_t(sequences.size()), batch_tokens))
    for (const TrainBatch& batch : mini.micro) {
      Tape tape(exec, false);
      const std::vector<float> old =
          to_host<float>(batch_logprobs(tape, model, DeviceBatch(exec.backend(), batch), options).logprobs.value());
      const int32_t start = int32_t(sides.old.size());
      sides.old.insert(sides.old.end(), old.begin(), old.end());
      sides.rollout.insert(sides.rollout.end(), batch.rollout_logprobs.begin(), batch.rollout_logprobs.end());
      for (size_t s = 1; s < batch.response_offsets.size(); ++s)
        sides.offsets.push_back(start + batch.response_offsets[s]);
    }
  return sides;
}

void add_cell(JsonObject& line, const Cell& cell) {
  line.add("rollout", cell.precision.rollout).add("train", cell.precision.train);
  line.add("kv_cache", cell.precision.kv_cache).add("lm_head", cell.precision.lm_head);
  line.add("residual", cell.precision.residual).add("rounding", cell.rounding);
}

/// A line a sequence: what a plot of pi against mu, and of log(pi / mu) against length, needs.
void write_points(AtomicFile& file, const Cell& cell, const Sides& sides) {
  const std::vector<SequenceMismatch> sequences = sequence_mismatch(sides.rollout, sides.old, sides.offsets);
  size_t begin = 0;
  for (const SequenceMismatch& s : sequences) {
    JsonObject line;
    add_cell(line, cell);
    line.add("length", s.length).add("log_ratio", s.log_ratio).add("k3_kl", s.k3_kl);
    line.add("rollout_logprobs", std::span(sides.rollout).subspan(begin, size_t(s.length)));
    line.add("old_logprobs", std::span(sides.old).subspan(begin, size_t(s.length)));
    file.write(line.str() + "\n");
    begin += size_t(s.length);
  }
}

/// What a cell shows: statistics of tokens and sequences, sequences by length.
struct Measured {
  Cell cell;
  MismatchStats stats;
  std::vector<LengthBucket> buckets;
  std::vector<int64_t> histogram;
  double seconds = 0;
};

Measured measure(const Cell& cell, const Sides& sides) {
  return {.cell = cell,
          .stats = mismatch_stats(sides.rollout, sides.old, sides.offsets),
          .buckets = length_buckets(sequence_mismatch(sides.rollout, sides.old, sides.offsets)),
          .histogram = probs_diff_histogram(sides.rollout, sides.old)};
}

void print_line(const Measured& m, const std::string& model, const std::vector<std::string>& data, double temperature,
                int64_t seed) {
  JsonObject line;
  line.add("model", model).add("data", std::span<const std::string>(data));
  add_cell(line, m.cell);
  line.add("temperature", temperature).add("seed", seed);
  line.add("sequences", m.stats.sequences).add("tokens", m.stats.tokens).add("seconds", m.seconds);
  for (const auto& [name, value] : mismatch_metrics(m.stats)) line.add(name, value);
  std::vector<int32_t> from, sequences, histogram(m.histogram.begin(), m.histogram.end());
  std::vector<float> length, log_ratio, k3, error;
  for (const LengthBucket& b : m.buckets) {
    from.push_back(int32_t(b.from)), sequences.push_back(int32_t(b.sequences));
    length.push_back(float(b.length)), log_ratio.push_back(float(b.log_ratio));
    k3.push_back(float(b.k3_kl)), error.push_back(float(b.k3_kl_stderr));
  }
  line.add("by_length/from", from).add("by_length/sequences", sequences).add("by_length/length", length);
  line.add("by_length/log_ratio", log_ratio).add("by_length/seq_k3_kl", k3);
  line.add("by_length/seq_k3_kl_stderr", error).add("probs_diff_histogram", histogram);
  print(line);
  std::cout.flush();  // a matrix takes a while: every finished cell is on the disk
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

/// Two tables in Markdown: a row a cell, and a row a cell and length.
std::string format_tables(const std::vector<Measured>& measured) {
  const auto cell_columns = [](const Cell& c) {
    return str("| ", c.precision.rollout, " | ", c.precision.train, " | ", c.precision.kv_cache, " | ",
               c.precision.lm_head, " | ", c.precision.residual, " | ", c.rounding, " | ");
  };
  std::string text =
      "| rollout | train | kv_cache | lm_head | residual | rounding | tokens | mean abs(p - p') | max | k1 a "
      "token | "
      "k3 a token | k3 a sequence | slope of log(pi/mu), 1000 tokens | Pearson |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const Measured& m : measured) {
    const MismatchStats& s = m.stats;
    text += str(cell_columns(m.cell), s.tokens, " | ", number(s.probs_diff_mean), " | ", number(s.probs_diff_max),
                " | ", number(s.kl), " | ", number(s.k3_kl), " | ", number(s.seq_k3_kl), " ± ",
                number(s.seq_k3_kl_stderr), " | ", number(s.log_ratio_slope), " | ");
    char pearson[32];
    std::snprintf(pearson, sizeof pearson, "%.7f |\n", s.probs_pearson_corr);
    text += pearson;
  }
  text +=
      "\n| rollout | train | kv_cache | lm_head | residual | rounding | response tokens | sequences | "
      "mean log(pi/mu) | k3 a sequence |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const Measured& m : measured)
    for (const LengthBucket& b : m.buckets)
      text += str(cell_columns(m.cell), b.from, " to ", 2 * b.from - 1, " | ", b.sequences, " | ", number(b.log_ratio),
                  " | ", number(b.k3_kl), " ± ", number(b.k3_kl_stderr), " |\n");
  return text;
}

}  // namespace

int mismatch_main(int argc, char** argv) {
  ModelFlags flags;
  DataConfig data;
  data.answer_key = "";
  RolloutConfig rollout;
  Cell base;
  std::string train = "auto", points, table;
  std::vector<std::string> matrix;
  int64_t seed = 0, batch_tokens = 4096;
  Arguments args(
      "mismatch",
      "Samples n responses a prompt, scores them again by the training path and compares the log-probs: KL a "
      "token and a sequence, probability differences, slope of log(pi/mu) against length. One JSON line a "
      "combination of types; --matrix precision=fp16,bf16,fp32 measures several.");
  flags.fields(args);
  args.choice("train_precision", train, {"auto", "fp16", "bf16", "fp32"}, "of the training path; auto: --precision");
  args.field("matrix", matrix,
             "AXIS=VALUE[,VALUE...]: all combinations; AXIS is precision (rollout and train alike), rollout, "
             "train, kv_cache, lm_head, residual or rounding");
  std::set<std::string> skipped = {"train", "rollout"};
  args.section(base.precision, skipped);
  args.field("data", data.files, "JSON lines of problems");
  args.required();
  skipped = kTrainingDataKeys;
  skipped.insert("answer_key");
  args.section(data, skipped);
  args.section(rollout);
  args.field("batch_tokens", batch_tokens, "tokens packed into one scoring pass", between(1, 1 << 24));
  args.field("seed", seed, "of the random numbers", at_least(0));
  args.field("points", points, "file for one line a sequence: log-probs of both sides");
  args.field("table", table, "file for the results as tables in Markdown");
  if (!args.parse(argc, argv)) return 0;
  base.precision.rollout = flags.precision;
  base.precision.train = train == "auto" ? flags.precision : train;
  base.rounding = rollout.rounding;
  const std::vector<Cell> cells = workable(make_cells(base, matrix));
  std::vector<std::string> inputs = data.files;
  inputs.push_back(flags.model);
  check_outputs({{"--points", points}, {"--table", table}}, inputs);
  std::optional<AtomicFile> points_file, table_file;
  if (!points.empty()) points_file.emplace(points);
  if (!table.empty()) table_file.emplace(table);

  Exec exec(flags.backend());
  std::unique_ptr<Model> model;
  std::string loaded;  // types of `model`
  PromptSet set;
  std::map<std::string, Completions> rollouts;  // by rollout side
  std::vector<Measured> measured;
  for (const Cell& cell : cells) {
    const auto start = std::chrono::steady_clock::now();
    const std::string types = cell.precision.train + " " + cell.precision.rollout;
    if (types != loaded) {
      model.reset();  // never two models at once
      model = load(flags.model, exec, cell.precision);
      loaded = types;
    }
    RolloutConfig side = rollout;
    side.rounding = cell.rounding;
    const auto [it, fresh] = rollouts.try_emplace(cell.rollout_side());
    if (fresh) {
      const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(model->tokenizer);
      if (set.prompts.empty())
        set = make_prompts(data, *tokenizer, model->tokenizer, model->config.max_positions, false);
      Engine engine(*model, side, cell.precision.engine(side));
      log_info(str(set.prompts.size(), " prompts, ", side.n, " samples each, on ", exec.backend().description()));
      it->second = engine.generate(requests_for(set.prompts, side.n),
                                   generate_options(engine, side, stop_ids(model->config, *tokenizer), seed));
    }
    // Greedy rollouts report log-probs at temperature 1 (rl/types.h).
    const Dtype compute = cell.precision.train_dtype();
    const Sides sides =
        score_rollouts(exec, *model, set.prompts, it->second, batch_tokens,
                       {.temperature = rollout.sampling.temperature > 0 ? rollout.sampling.temperature : 1.0,
                        .lm_head = cell.precision.head_dtype(compute),
                        .residual = cell.precision.residual_dtype(compute)});
    Measured& m = measured.emplace_back(measure(cell, sides));
    m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    print_line(m, flags.model, data.files, rollout.sampling.temperature, seed);
    log_info(str(cell.name(), ": mean |p - p'| ", number(m.stats.probs_diff_mean), ", k3 a token ",
                 number(m.stats.k3_kl), ", a sequence ", number(m.stats.seq_k3_kl), " ± ",
                 number(m.stats.seq_k3_kl_stderr)));
    if (points_file) write_points(*points_file, cell, sides);
  }
  if (points_file) points_file->commit();
  if (table_file) {
    table_file->write(format_tables(measured));
    table_file->commit();
  }
  return 0;
}

}  // namespace mantissa
