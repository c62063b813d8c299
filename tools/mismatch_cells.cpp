#include "tools/mismatch_cells.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

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
      {"match", {"auto", "exact", "fast", "peer"}, [](Cell& c, const std::string& v) { c.precision.match = v; }},
  };
  return kAxes;
}

}  // namespace

std::vector<Cell> make_cells(const Cell& base, const std::vector<std::string>& matrix) {
  std::vector<Cell> cells{base};
  std::set<std::string> seen;
  for (const std::string& text : matrix) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const auto axis = std::find_if(axes().begin(), axes().end(), [&](const Axis& a) { return a.name == name; });
    std::vector<std::string> names;
    for (const Axis& a : axes()) names.push_back(a.name);
    check(equals != std::string::npos && axis != axes().end(), "--matrix takes AXIS=VALUE[,VALUE...] with AXIS one of ",
          join(names), ": got \"", text, "\"");
    check(seen.insert(name).second, "--matrix ", name, ": is there twice, the second time in \"", text, "\"");
    const std::vector<std::string> values = split(text.substr(equals + 1), ',');
    for (size_t i = 0; i < values.size(); ++i) {
      check(std::find(axis->values.begin(), axis->values.end(), values[i]) != axis->values.end(), "--matrix ", name,
            " takes ", join(axis->values), ": got \"", values[i], "\" in \"", text, "\"");
      check(std::count(values.begin(), values.begin() + int(i), values[i]) == 0, "--matrix ", name, ": \"", values[i],
            "\" is there twice in \"", text, "\"");
    }
    std::vector<Cell> product;
    for (const Cell& cell : cells)
      for (const std::string& value : values) axis->set(product.emplace_back(cell), value);
    cells = std::move(product);
  }
  for (const char* side : {"rollout", "train"})
    check(!seen.contains("precision") || !seen.contains(side),
          "--matrix precision: is that of rollout and training, and ", side, " is there, too");
  return cells;
}

std::vector<Cell> workable(const std::vector<Cell>& cells, const std::function<void(const PrecisionConfig&)>& can) {
  std::vector<Cell> kept;
  for (const Cell& cell : cells) try {
      can(cell.precision);
      kept.push_back(cell);
    } catch (const Error& e) {
      if (cells.size() == 1) throw;
      log_warning(str("left out ", cell.name(), ": ", e.what()));
    }
  check(!kept.empty(), "--matrix leaves no combination that works");
  return kept;
}

}  // namespace mantissa
