#include "rl/train/first_difference.h"

#include <cstring>
#include <map>

namespace mantissa {
namespace {

/// Outputs of ops for one row, in fp32, by "scope op" and how often that was seen; and their order.
struct Trace {
  std::vector<std::string> order;
  std::map<std::string, std::vector<float>> rows;
};

/// Both forms call an op by the same name here.
std::string common_name(std::string_view op) {
  return std::string(op == "rope_kv" ? "rope" : op == "attention_decode" ? "attention" : op);
}

/// Notes row `row` of every output of `rows` rows.
Observer record_row(Trace& trace, int64_t rows, int64_t row) {
  return [&trace, rows, row](const Observation& seen) {
    const Tensor& t = seen.tensor;
    if (seen.backward || seen.groups.defined() || t.shape().rank() != 2 || t.size(0) != rows || !is_floating(t.dtype()))
      return;
    const std::string name = str(seen.scope, ' ', common_name(seen.op));
    std::string key = name;
    for (int again = 2; trace.rows.contains(key); ++again) key = str(name, " (", again, ')');
    trace.order.push_back(key);
    trace.rows[key] = to_host_float(t.slice(row, row + 1));
  };
}

Tensor upload(Exec& exec, std::vector<int32_t> values) {
  return tensor_from<int32_t>(exec.backend(), values, {int64_t(values.size())});
}

Trace packed_trace(Exec& exec, const Model& model, const TrainBatch& batch, int64_t row,
                   const LogprobOptions& options) {
  Trace trace;
  Tape tape(exec, false);
  tape.set_observer(record_row(trace, int64_t(batch.ids.size()), row));
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model.params;
  ctx.adapter = model.adapter.get();
  ctx.residual = options.residual;
  ctx.ids = upload(exec, batch.ids);
  ctx.positions = upload(exec, batch.positions);
  ctx.attention.offsets = upload(exec, batch.offsets);
  ctx.attention.longest = batch.longest();
  model.decoder->forward(ctx);
  return trace;
}

/// ids: what the model has read, the last one being the row that predicts the token; the first `prompt` are prefilled.
Trace rollout_trace(Exec& exec, const Model& model, const std::vector<int32_t>& ids, int64_t prompt,
                    const EnginePrecision& precision) {
  const Heads& heads = model.config.heads;
  const int64_t pages = (int64_t(ids.size()) + kAttentionTile - 1) / kAttentionTile;
  KvCache cache;
  for (int64_t i = 0; i < model.config.layers; ++i)
    cache.layers.push_back(exec.zeros({2, pages, kAttentionTile, int64_t(heads.kv) * heads.size}, precision.kv_cache));
  std::vector<int32_t> table;
  for (int64_t i = 0; i < pages; ++i) table.push_back(int32_t(i));
  const Tensor table_tensor = tensor_from<int32_t>(exec.backend(), table, {1, pages});

  Trace trace;
  for (int64_t begin = 0; begin < int64_t(ids.size());) {
    const int64_t end = begin == 0 ? prompt : begin + 1;
    std::vector<int32_t> positions;
    for (int64_t i = begin; i < end; ++i) positions.push_back(int32_t(i));
    Tape tape(exec, false);
    if (end == int64_t(ids.size())) tape.set_observer(record_row(trace, end - begin, end - begin - 1));
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &model.params;
    ctx.adapter = model.adapter.get();
    ctx.rollout = true;
    ctx.residual = precision.residual;
    ctx.attention.cache = &cache;
    ctx.ids = upload(exec, {ids.begin() + begin, ids.begin() + end});
    ctx.positions = ctx.attention.slots = upload(exec, positions);
    if (begin == 0) {
      ctx.attention.offsets = upload(exec, {0, int32_t(end)});
      ctx.attention.longest = end;
    } else {
      ctx.attention.table = table_tensor;
      ctx.attention.lengths = upload(exec, {int32_t(end)});
    }
    model.decoder->forward(ctx);
    begin = end;
  }
  return trace;
}

}  // namespace

std::string first_difference(Exec& training, Exec& rollout, const Model& model, const TrainBatch& batch,
                             size_t sequence, int64_t token, const LogprobOptions& options,
                             const EnginePrecision& precision) {
  const int64_t start = batch.offsets[sequence];
  const int64_t first_scored = batch.scored[size_t(batch.response_offsets[sequence])];
  const int64_t row = first_scored + token;  // whose output predicts the token
  const std::vector<int32_t> ids(batch.ids.begin() + start, batch.ids.begin() + row + 1);
  const Trace packed = packed_trace(training, model, batch, row, options);
  const Trace paged = rollout_trace(rollout, model, ids, first_scored - start + 1, precision);
  for (const std::string& name : packed.order) {
    const auto other = paged.rows.find(name);
    if (other == paged.rows.end()) continue;
    const std::vector<float>&a = packed.rows.at(name), &b = other->second;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0)
        return str("run again in both forms, ", name, " is the first to differ: element ", i, " is ", shortest(b[i]),
                   " in the rollout's form and ", shortest(a[i]), " in training's");
  }
  return "run again in both forms with the weights of now no layer differs: the weights, or what the rollout ran on, "
         "changed since the token was sampled";
}

}  // namespace mantissa
