#include "nn/adapter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/text.h"

namespace mantissa {
namespace {

constexpr int64_t kMaxRank = 4096;

/// Rows of a linear layer in its projection.
ColumnRange rows_of(const ModelConfig& c, const std::string& name) {
  const int64_t q = int64_t(c.heads.query) * c.heads.size, kv = int64_t(c.heads.kv) * c.heads.size;
  if (name == "q_proj") return {0, q};
  if (name == "k_proj") return {q, q + kv};
  if (name == "v_proj") return {q + kv, q + 2 * kv};
  if (name == "gate_proj") return {0, c.feed_forward};
  if (name == "up_proj") return {c.feed_forward, 2 * c.feed_forward};
  return {0, c.width};  // o_proj, down_proj
}

int64_t inputs_of(const ModelConfig& c, Projection which) {
  return which == Projection::kO      ? int64_t(c.heads.query) * c.heads.size
         : which == Projection::kDown ? c.feed_forward
                                      : c.width;
}

}  // namespace

int64_t common_inputs(const ModelConfig& model) {
  int64_t common = 0;
  for (int p = 0; p < kProjections; ++p) common = std::gcd(common, inputs_of(model, Projection(p)));
  return common;
}

const std::vector<LinearName>& linear_names() {
  static const std::vector<LinearName> names = {
      {"q_proj", "self_attn.q_proj", Projection::kQkv},    {"k_proj", "self_attn.k_proj", Projection::kQkv},
      {"v_proj", "self_attn.v_proj", Projection::kQkv},    {"o_proj", "self_attn.o_proj", Projection::kO},
      {"gate_proj", "mlp.gate_proj", Projection::kGateUp}, {"up_proj", "mlp.up_proj", Projection::kGateUp},
      {"down_proj", "mlp.down_proj", Projection::kDown}};
  return names;
}

double AdapterConfig::scale() const {
  return alpha / (rank_stabilized ? std::sqrt(double(rank)) : double(rank));
}

std::string AdapterConfig::text() const {
  return str("rank ", rank, ", alpha ", alpha, rank_stabilized ? " (rank-stabilized)" : "", " on ", join(targets));
}

void AdapterConfig::validate(const std::string& source) const {
  check(rank >= 1 && rank <= kMaxRank, source, ": the rank must be between 1 and ", kMaxRank, ", got ", rank);
  check(std::isfinite(alpha) && alpha >= 0, source, ": alpha must be at least 0, got ", alpha);
  check(scale() <= double(std::numeric_limits<float>::max()), source,
        ": lora_alpha (lora.alpha): ", rank_stabilized ? "alpha / sqrt(rank)" : "alpha / rank",
        " must be finite in fp32, got alpha ", alpha, ", rank ", rank);
  check(!targets.empty(), source, ": no layer is adapted");
}

std::vector<std::string> parse_targets(const std::vector<std::string>& names, const std::string& source) {
  std::vector<std::string> known, targets;
  for (const LinearName& linear : linear_names()) known.push_back(linear.name);
  const bool all = std::ranges::count(names, "all-linear") > 0;
  for (const std::string& name : names)
    check(name == "all-linear" || std::ranges::count(known, name) > 0, source, ": must be all-linear or of ",
          join(known), "; got \"", name, '"');
  for (const std::string& name : known)
    if (all || std::ranges::count(names, name) > 0) targets.push_back(name);
  check(!targets.empty(), source, ": no layer is named");
  return targets;
}

void LoraConfig::fields(Fields& f) {
  f.field("rank", rank, "rank of trained low-rank updates of a frozen model; 0 = all weights are trained",
          between(0, double(kMaxRank)));
  f.field("alpha", alpha, "the update is scaled by alpha / rank", between(1e-6, 1e6));
  f.field("targets", targets,
          "the layers that have one: all-linear, or of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
  f.field("dropout", dropout, "share of what A reads that is left out (sft alone)", between(0, 0.99));
  f.field("init", init,
          "A at first, B being zero: kaiming (uniform) or gaussian; or an adapter to go on from: a PEFT directory or "
          "RUN/checkpoints/step_N, whose rank, alpha and targets stand for those here");
  f.choice("rollout", rollout, {"adapter", "merged", "merged_in_place"},
           "adapter: rollouts compute as training does; merged: from a second copy of the weights, with the update "
           "added and rounded; merged_in_place: added to the weights before a rollout and subtracted after it");
  for (const char* key : {"alpha", "targets"})
    if (f.given(key)) given.push_back(key);
}

AdapterConfig LoraConfig::adapter() const {
  return {.rank = rank, .alpha = alpha, .targets = parse_targets(targets, "lora.targets")};
}

void LoraConfig::check_agrees(const AdapterConfig& found) const {
  const LoraConfig unset;
  check(found.alpha > 0, "lora.init: must be an adapter whose alpha is above 0, without which nothing is trained, got ",
        init, " of alpha ", found.alpha);
  const auto left_out = [&](const char* key) { return std::ranges::count(given, key) == 0; };
  check(rank == unset.rank || rank == found.rank, "lora.rank: must be 0 or that of ", init, ", ", found.rank, "; got ",
        rank);
  check((alpha == unset.alpha && left_out("alpha")) || alpha == found.alpha,
        "lora.alpha: must be left out or be that of ", init, ", ", found.alpha, "; got ", alpha);
  check((targets == unset.targets && left_out("targets")) || parse_targets(targets, "lora.targets") == found.targets,
        "lora.targets: must be left out or be those of ", init, ", ", join(found.targets), "; got ", join(targets));
}

void LoraConfig::adopt(const AdapterConfig& found) {
  check_agrees(found);
  rank = found.rank;
  alpha = found.alpha;
  targets = found.targets;
}

Adapter::Adapter(const ModelConfig& model, AdapterConfig of, int world_size) : config(std::move(of)) {
  const int64_t padded = config.padded_rank();
  ParamLayout& layout = params.layout;
  for (int64_t i = 0; i < model.layers; ++i) {
    const std::string name = str("layers.", i);
    const int unit = layout.add_unit(name);
    LayerAdapter& layer = layers.emplace_back();
    for (const LinearName& linear : linear_names())
      if (std::ranges::count(config.targets, linear.name) > 0)
        layer.projections[size_t(linear.projection)].parts.push_back(rows_of(model, linear.name));
    constexpr const char* kNames[kProjections] = {".qkv", ".o", ".gate_up", ".down"};
    for (int p = 0; p < kProjections; ++p) {
      ProjectionAdapter& update = layer.projections[p];
      if (update.parts.empty()) continue;
      int64_t outputs = 0;
      for (const ColumnRange& part : update.parts) outputs += part.size();
      const int64_t inputs = inputs_of(model, Projection(p)), parts = int64_t(update.parts.size());
      update.a = layout.add(unit, str(name, kNames[p], ".lora_a"), {parts * padded, inputs}, true);
      update.b = layout.add(unit, str(name, kNames[p], ".lora_b"), {outputs, padded}, true);
    }
  }
  layout.finish(world_size);
}

std::vector<AdapterPart> adapter_parts(const ModelConfig& model, const Adapter& adapter) {
  std::vector<AdapterPart> parts;
  for (size_t i = 0; i < adapter.layers.size(); ++i) {
    int64_t a_row = 0, b_row = 0;
    Projection last = Projection::kQkv;
    for (const LinearName& linear : linear_names()) {
      if (std::ranges::count(adapter.config.targets, linear.name) == 0) continue;
      if (std::exchange(last, linear.projection) != linear.projection) a_row = b_row = 0;
      const ProjectionAdapter& update = adapter.layers[i][linear.projection];
      const ColumnRange rows = rows_of(model, linear.name);
      parts.push_back({str("model.layers.", i, ".", linear.module), int(i), linear.projection, rows,
                       inputs_of(model, linear.projection), update.a, update.b, a_row, b_row});
      a_row += adapter.config.padded_rank();
      b_row += rows.size();
    }
  }
  return parts;
}

}  // namespace mantissa
