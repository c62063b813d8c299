// Adapters: low-rank updates (LoRA) of a decoder's projections. The model's own weights stay as they were loaded, and A
// and B, a parameter set of their own, are trained and saved.
//
// Of a fused projection (qkv, gate_up) each Hugging Face name that is adapted is a part with its own A and B; B's rows
// are those of the part, and the parts lie one after the other. The rank is padded to a multiple of 16 by zeros: zero
// rows of A and zero columns of B have gradients of zero, so they stay what they are.
//
// Shapes: K inputs, N outputs of a part, P parts, r rank, R padded rank. A [P R, K], B [sum of N, R].
#pragma once

#include <string>
#include <vector>

#include "autograd/ops.h"
#include "core/fields.h"
#include "nn/config.h"
#include "nn/params.h"

namespace mantissa {

/// A decoder layer's projections, fused as it computes them.
enum class Projection : uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int kProjections = 4;

/// Divides the inputs of every projection of the model.
int64_t common_inputs(const ModelConfig& model);

/// A linear layer as Hugging Face names it: rows of a projection.
struct LinearName {
  const char* name;    // "q_proj"
  const char* module;  // "self_attn.q_proj"
  Projection projection;
};
/// All seven, in the order of their rows.
const std::vector<LinearName>& linear_names();

/// What an adapter computes: the part of a PEFT adapter_config.json that decides it.
struct AdapterConfig {
  int64_t rank = 0;
  double alpha = 16.0;
  bool rank_stabilized = false;      // use_rslora
  std::vector<std::string> targets;  // of linear_names(), in their order

  /// alpha / rank, or alpha / sqrt(rank).
  double scale() const;
  /// "rank 8, alpha 32 on q_proj, v_proj", for logs and messages.
  std::string text() const;
  int64_t padded_rank() const { return (rank + 15) / 16 * 16; }
  /// Throws Error naming `source` (a file, or "lora"), the key, the rule and the value.
  void validate(const std::string& source) const;
  bool operator==(const AdapterConfig&) const = default;
};
/// Names as configs and PEFT give them, in the order of linear_names(); "all-linear" stands for all. Throws where one
/// is none, naming `source`.
std::vector<std::string> parse_targets(const std::vector<std::string>& names, const std::string& source);

/// Section `lora` of a config. Rank 0 and no directory to begin with: all weights are trained.
struct LoraConfig {
  int64_t rank = 0;
  double alpha = 16.0;
  std::vector<std::string> targets = {"all-linear"};
  double dropout = 0.0;
  std::string init = "kaiming";         // kaiming, gaussian, or the directory of an adapter
  std::string rollout = "adapter";      // adapter, merged, merged_in_place
  std::vector<std::string> given = {};  // of alpha and targets, those that a config sets
  void fields(Fields& f);

  bool from_directory() const { return init != "kaiming" && init != "gaussian"; }
  bool active() const { return rank > 0 || from_directory(); }
  bool merged() const { return active() && rollout != "adapter"; }
  AdapterConfig adapter() const;
  /// Throws Error where rank, alpha or targets are set and `found`, the adapter to go on from, has others, and where
  /// its alpha is 0, so that its gradients are.
  void check_agrees(const AdapterConfig& found) const;
  /// check_agrees, and has rank, alpha and targets of `found` from then on.
  void adopt(const AdapterConfig& found);
};

/// Parameters of one projection's update; no parts: it has none.
struct ProjectionAdapter {
  ParamId a, b;
  std::vector<ColumnRange> parts;
};
struct LayerAdapter {
  ProjectionAdapter projections[kProjections];
  const ProjectionAdapter& operator[](Projection which) const { return projections[size_t(which)]; }
};

struct Adapter {
  AdapterConfig config;
  std::vector<LayerAdapter> layers;
  ParamSet params;
  bool merged = false;  // rollouts read weights that hold the update already

  /// Registers the parameters, a unit a layer, and finishes the layout. Allocates no tensor.
  Adapter(const ModelConfig& model, AdapterConfig config, int world_size = 1);
  /// Numbers that are trained: those of the rank, not what it is padded by.
  int64_t trained() const { return params.layout.parameters() / config.padded_rank() * config.rank; }
};

/// A and B of one Hugging Face name of one layer, and the rows of the model's weight that they update.
struct AdapterPart {
  std::string module;  // "model.layers.0.self_attn.q_proj"
  int layer;
  Projection projection;
  ColumnRange rows;  // of the projection
  int64_t inputs;    // K
  ParamId a, b;
  int64_t a_row, b_row;  // where this part's rows begin
};
std::vector<AdapterPart> adapter_parts(const ModelConfig& model, const Adapter& adapter);

}  // namespace mantissa
