#include "nn/moe.h"

#include <numeric>

#include "core/rehearsal.h"

namespace mantissa {
namespace {

Var feed_forward(Tape& tape, const Var& grouped, const Var& gate_up, const Var& down, const ops::Routes& routes) {
  return ops::grouped_linear(tape, ops::swiglu(tape, ops::grouped_linear(tape, grouped, gate_up, routes)), down,
                             routes);
}

/// How the grouped rows of all ranks come together at their experts.
struct Exchange {
  std::vector<int64_t> sent, received;  // rows, by rank
  ops::Routes arrival;                  // of each row that came, one slot: its expert among those here
  int64_t first = 0;                    // of these
};

/// bounds[r]: Routes::offsets of rank r.
Exchange plan_exchange(Exec& exec, const std::vector<std::vector<int32_t>>& bounds, int own) {
  const size_t ranks = bounds.size(), count = bounds[0].size() - 1, here = count / ranks, first = size_t(own) * here;
  Exchange e;
  e.first = int64_t(first);
  for (size_t r = 0; r < ranks; ++r) {
    e.sent.push_back(bounds[size_t(own)][(r + 1) * here] - bounds[size_t(own)][r * here]);
    e.received.push_back(bounds[r][first + here] - bounds[r][first]);
  }
  const int64_t rows = std::accumulate(e.received.begin(), e.received.end(), int64_t(0));
  // One block for the device: offsets, grouped row -> row that came, row that came -> grouped row.
  std::vector<int32_t> block(here + 1 + size_t(2 * rows), 0);
  int32_t *const came = block.data() + here + 1, *const grouped_of = came + rows;
  std::vector<int32_t> begin(ranks, 0);  // of a rank's rows among those that came
  for (size_t r = 1; r < ranks; ++r) begin[r] = begin[r - 1] + int32_t(e.received[r - 1]);
  int32_t grouped = 0;
  for (size_t expert = first; expert < first + here; ++expert) {
    for (size_t r = 0; r < ranks; ++r)
      for (int32_t i = bounds[r][expert]; i < bounds[r][expert + 1]; ++i) {
        const int32_t row = begin[r] + i - bounds[r][first];
        grouped_of[row] = grouped;
        came[grouped++] = row;
      }
    block[expert + 1 - first] = grouped;
  }
  const Tensor all = tensor_from<int32_t>(exec.backend(), block, {int64_t(block.size())});
  const int64_t offsets = int64_t(here) + 1;
  e.arrival.offsets = all.slice(0, offsets);
  e.arrival.tokens = all.slice(offsets, offsets + rows);
  e.arrival.rows = all.slice(offsets + rows, offsets + 2 * rows).view({rows, 1});
  return e;
}

Exchange plan_exchange(Exec& exec, const ops::Routes& routes, Comm& ranks) {
  const int64_t count = routes.offsets.numel();
  std::vector<std::vector<int32_t>> bounds;
  if (is_rehearsal(exec.backend())) {  // it routes nothing: as many rows for each expert
    std::vector<int32_t> even;
    for (int64_t e = 0; e < count; ++e) even.push_back(int32_t(routes.tokens.numel() * e / (count - 1)));
    bounds.assign(size_t(ranks.size()), even);
    return plan_exchange(exec, bounds, ranks.rank());
  }
  Tensor all = exec.empty({ranks.size() * count}, Dtype::kI32);
  ranks.all_gather(exec, all, routes.offsets);
  const std::vector<int32_t> host = to_host<int32_t>(all);
  for (int r = 0; r < ranks.size(); ++r) bounds.emplace_back(host.begin() + r * count, host.begin() + (r + 1) * count);
  return plan_exchange(exec, bounds, ranks.rank());
}

/// The way back of a permutation.
ops::Routes reversed(const ops::Routes& routes) {
  const int64_t rows = routes.tokens.numel();
  return {{}, routes.offsets, routes.rows.view({rows}), routes.tokens.view({rows, 1})};
}

}  // namespace

Var mixture(Tape& tape, const Var& x, const Var& router, const Var& gate_up, const Var& down,
            const ExpertsConfig& experts, Tensor* offsets, Comm& ranks, const ops::RouteExchange& other) {
  const ops::Routing routing = ops::route(tape, x, router, experts.per_token, experts.normalise, other);
  const ops::Routes& routes = routing.routes;
  if (offsets) *offsets = routes.offsets;
  Var out;
  if (ranks.size() == 1) {
    const Tape::Groups groups(tape, routes.offsets);
    out = feed_forward(tape, ops::group_rows(tape, x, routes), gate_up, down, routes);
  } else {
    const Exchange e = plan_exchange(tape.exec(), routes, ranks);
    const Var here = ops::exchange_rows(tape, ops::group_rows(tape, x, routes), ranks, e.received, e.sent);
    {
      const Tape::Groups groups(tape, e.arrival.offsets, e.first);
      out = feed_forward(tape, ops::group_rows(tape, here, e.arrival), gate_up, down, e.arrival);
    }
    out = ops::exchange_rows(tape, ops::group_rows(tape, out, reversed(e.arrival)), ranks, e.sent, e.received);
  }
  return ops::combine(tape, out, routing.weights, routes);
}

}  // namespace mantissa
