#include "tools/mismatch_report.h"

#include <cstdio>
#include <iostream>

#include "tools/json_lines.h"

namespace mantissa {
namespace {

void add_cell(JsonObject& line, const Cell& cell) {
  line.add("rollout", cell.precision.rollout).add("train", cell.precision.train);
  line.add("kv_cache", cell.precision.kv_cache).add("lm_head", cell.precision.lm_head);
  line.add("residual", cell.precision.residual).add("match", cell.precision.match);
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

}  // namespace

Measured measure(const Cell& cell, const LogprobSides& sides) {
  return {.cell = cell,
          .stats = mismatch_stats(sides.rollout, sides.old, sides.offsets()),
          .buckets = length_buckets(sequence_mismatch(sides.rollout, sides.old, sides.offsets())),
          .histogram = probs_diff_histogram(sides.rollout, sides.old)};
}

void print_line(const Measured& m, const MeasuredOn& on) {
  JsonObject line;
  line.add("model", on.model);
  if (!on.adapter.empty()) line.add("adapter", on.adapter);
  line.add("data", std::span<const std::string>(on.data));
  add_cell(line, m.cell);
  line.add("temperature", on.temperature).add("seed", on.seed);
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
  std::cout.flush();
}

void write_points(AtomicFile& file, const Cell& cell, const LogprobSides& sides) {
  const std::vector<SequenceMismatch> sequences = sequence_mismatch(sides.rollout, sides.old, sides.offsets());
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

std::string format_tables(const std::vector<Measured>& measured) {
  const auto cell_columns = [](const Cell& c) {
    return str("| ", c.precision.rollout, " | ", c.precision.train, " | ", c.precision.kv_cache, " | ",
               c.precision.lm_head, " | ", c.precision.residual, " | ", c.precision.match, " | ");
  };
  std::string text =
      "| rollout | train | kv_cache | lm_head | residual | match | tokens | mean abs(p - p') | max | k1 a "
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
      "\n| rollout | train | kv_cache | lm_head | residual | match | response tokens | sequences | "
      "mean log(pi/mu) | k3 a sequence |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const Measured& m : measured)
    for (const LengthBucket& b : m.buckets)
      text += str(cell_columns(m.cell), b.from, " to ", 2 * b.from - 1, " | ", b.sequences, " | ", number(b.log_ratio),
                  " | ", number(b.k3_kl), " ± ", number(b.k3_kl_stderr), " |\n");
  return text;
}

std::string summary_of(const Measured& m) {
  return str(m.cell.name(), ": mean |p - p'| ", number(m.stats.probs_diff_mean), ", k3 a token ", number(m.stats.k3_kl),
             ", a sequence ", number(m.stats.seq_k3_kl), " ± ", number(m.stats.seq_k3_kl_stderr));
}

}  // namespace mantissa
