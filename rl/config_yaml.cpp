// The YAML reader: the only file that sees yaml-cpp. A section's fields() drives it key by key.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/file.h"
#include "core/text.h"
#include "rl/config.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

constexpr size_t kConfigLimit = size_t(1) << 20;

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string nearest(const std::string& key, const std::vector<std::string>& known) {
  return *std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(key, a) < edit_distance(key, b);
  });
}

/// A value with where it stands: "file.yaml line 12" or "override optim.lr=x". An override's is the text as it was
/// given: only the key's type makes more of it.
struct Source {
  YAML::Node node;
  std::string where;
  bool literal = false;
};

/// Numbers in decimal, a sign and leading zeros allowed: 010 is ten. False for anything else.
template <class T>
bool read_number(std::string_view text, T& value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

/// One section of the file plus the overrides that name it.
class SectionReader : public Fields {
 public:
  SectionReader(std::string section, std::map<std::string, Source> values)
      : section_(std::move(section)), values_(std::move(values)) {}

  void field(const char* key, bool& value, const Help&) override { read(key, value, "true or false"); }
  void field(const char* key, int64_t& value, const Help&, Range range) override {
    read(key, value, "an integer");
    in_range(key, value, range);
  }
  void field(const char* key, double& value, const Help&, Range range) override {
    read(key, value, "a number");
    check(std::isfinite(value), place(key), "must be finite, got ", value);
    in_range(key, value, range);
  }
  void field(const char* key, std::string& value, const Help&) override { read(key, value, "a string"); }
  void choice(const char* key, std::string& value, const std::vector<std::string>& choices, const Help&) override {
    read(key, value, "a string");
    if (std::find(choices.begin(), choices.end(), value) != choices.end()) return;
    fail(place(key), "must be one of ", join(choices), "; got \"", value, "\"");
  }
  void field(const char* key, std::vector<std::string>& value, const Help&) override {
    const Source* source = find(key);
    if (!source) return;
    YAML::Node list = source->node;
    const bool flow = source->literal && list.Scalar().starts_with('[') && list.Scalar().ends_with(']');
    if (flow) list.reset(YAML::Load(source->node.Scalar()));
    value.clear();
    if (list.IsScalar()) {
      value.push_back(list.Scalar());
      return;
    }
    check(list.IsSequence(), place(key), "must be a string or a list of strings");
    for (const YAML::Node& item : list) {
      check(item.IsScalar(), place(key), "must be a list of strings");
      value.push_back(item.Scalar());
    }
  }

  std::vector<std::string> maps() const override {
    std::vector<std::string> names;
    for (const auto& [key, source] : values_)
      if (const size_t dot = key.find('.'); dot != std::string::npos)
        if (const std::string name = key.substr(0, dot); names.empty() || names.back() != name) names.push_back(name);
    return names;
  }

  /// Throws when a key of the section was not asked for.
  void finish() const {
    for (const auto& [key, source] : values_)
      if (std::find(known_.begin(), known_.end(), key) == known_.end())
        fail(source.where, ": unknown key \"", section_, ".", key, "\"; the nearest known key is \"", section_, ".",
             nearest(key, known_), "\"");
  }

 private:
  const Source* find(const char* key) {
    known_.push_back(key);
    const auto it = values_.find(key);
    if (it == values_.end()) return nullptr;
    if (!it->second.node.IsNull()) return &it->second;
    log_info(str(place(key), "is null: it keeps its default"));
    return nullptr;
  }

  std::string place(const char* key) const {
    const auto it = values_.find(key);
    return str(it == values_.end() ? "default" : it->second.where, ": ", section_, ".", key, " ");
  }

  template <class T>
  void read(const char* key, T& value, const char* expected) {
    const Source* source = find(key);
    if (!source) return;
    const YAML::Node& node = source->node;
    T read_value{};
    bool ok = node.IsScalar();
    if constexpr (std::is_same_v<T, std::string>)
      read_value = ok ? node.Scalar() : "";
    else if constexpr (std::is_same_v<T, bool>)
      ok = ok && YAML::convert<bool>::decode(node, read_value);
    else
      ok = ok && read_number(node.Scalar(), read_value);
    check(ok, place(key), "must be ", expected, ", got ",
          node.IsScalar() ? "\"" + node.Scalar() + "\"" : "a list or map");
    value = read_value;
  }

  /// Whole numbers are compared as doubles and printed as what they are.
  template <class T>
  void in_range(const char* key, T value, Range range) const {
    check(double(value) >= range.low && double(value) <= range.high, place(key), "must be ", rule_of<T>(range),
          ", got ", shortest(value));
  }

  std::string section_;
  std::map<std::string, Source> values_;
  std::vector<std::string> known_;
};

/// The shortest text that reads back as the same value.
std::string number_text(double value) {
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

/// Collects keys and values of a section.
class ValueLister final : public Fields {
 public:
  ValueLister(std::string section, std::vector<ConfigValue>& out) : section_(std::move(section)), out_(out) {}
  void field(const char* key, bool& value, const Help& help) override { add(key, value ? "true" : "false", help); }
  void field(const char* key, int64_t& value, const Help& help, Range) override { add(key, shortest(value), help); }
  void field(const char* key, double& value, const Help& help, Range) override { add(key, number_text(value), help); }
  void field(const char* key, std::string& value, const Help& help) override { add(key, str('"', value, '"'), help); }
  void choice(const char* key, std::string& value, const std::vector<std::string>&, const Help& help) override {
    add(key, value, help);
  }
  void field(const char* key, std::vector<std::string>& value, const Help& help) override {
    add(key, "[" + join(value) + "]", help);
  }

 private:
  void add(const char* key, std::string text, const Help& help) {
    out_.push_back({section_ + "." + key, std::move(text), help.decisive});
  }
  std::string section_;
  std::vector<ConfigValue>& out_;
};

class Printer : public Fields {
 public:
  explicit Printer(YAML::Emitter& out) : out_(out) {}
  void field(const char* key, bool& value, const Help&) override { pair(key) << value; }
  void field(const char* key, int64_t& value, const Help&, Range) override { pair(key) << value; }
  void field(const char* key, double& value, const Help&, Range) override { pair(key) << number_text(value); }
  void field(const char* key, std::string& value, const Help&) override { pair(key) << YAML::DoubleQuoted << value; }
  void choice(const char* key, std::string& value, const std::vector<std::string>&, const Help&) override {
    pair(key) << value;
  }
  void field(const char* key, std::vector<std::string>& value, const Help&) override {
    pair(key) << YAML::Flow << YAML::BeginSeq;
    for (const std::string& item : value) out_ << YAML::DoubleQuoted << item;
    out_ << YAML::EndSeq;
  }

 private:
  YAML::Emitter& pair(const char* key) { return out_ << YAML::Key << key << YAML::Value; }
  YAML::Emitter& out_;
};

using Values = std::map<std::string, std::map<std::string, Source>>;

Values read_values(const std::string& yaml, const std::string& where) {
  Values values;
  YAML::Node root;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(yaml);
    check(documents.size() <= 1, where, ": must be one YAML document, got ", documents.size(),
          " (\"---\" begins another)");
    if (!documents.empty()) root.reset(documents[0]);
  } catch (const YAML::Exception& e) {
    fail(where, " line ", e.mark.line + 1, ": not valid YAML: ", e.msg);
  }
  check(root.IsMap(), where, ": must be a map of sections");
  for (const auto& section : root) {
    check(section.first.IsScalar(), where, ": section names must be strings");
    const std::string name = section.first.Scalar();
    const std::string line = str(where, " line ", section.first.Mark().line + 1);
    check(!values.contains(name), line, ": section \"", name, "\" appears twice");
    values[name];
    if (section.second.IsNull()) continue;
    check(section.second.IsMap(), line, ": section \"", name, "\" must be a map of keys");
    for (const auto& entry : section.second) {
      check(entry.first.IsScalar(), line, ": keys of section \"", name, "\" must be strings");
      const auto add = [&](const std::string& key, const YAML::Node& at_key, const YAML::Node& value) {
        const std::string at = str(where, " line ", at_key.Mark().line + 1);
        check(values[name].emplace(key, Source{value, at}).second, at, ": key \"", name, ".", key, "\" appears twice");
      };
      const std::string key = entry.first.Scalar();
      if (!entry.second.IsMap()) add(key, entry.first, entry.second);
      if (entry.second.IsMap())  // a map inside a section: "key.inner" is its key
        for (const auto& inner : entry.second) {
          check(inner.first.IsScalar(), line, ": keys of \"", name, ".", key, "\" must be strings");
          add(key + "." + inner.first.Scalar(), inner.first, inner.second);
        }
    }
  }
  return values;
}

void apply_override(Values& values, const std::string& text) {
  const size_t equals = text.find('='), dot = text.find('.');
  check(equals != std::string::npos && dot != std::string::npos && dot < equals, "override \"", text,
        "\": must be section.key=value");
  values[text.substr(0, dot)][text.substr(dot + 1, equals - dot - 1)] = {YAML::Node(text.substr(equals + 1)),
                                                                         "override " + text, true};
}

}  // namespace

RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides) {
  RunConfig config;
  try {
    Values values = read_values(yaml, where);
    for (const std::string& text : overrides) apply_override(values, text);
    std::vector<std::string> known;
    config.sections([&](const char* name, auto& section) {
      known.push_back(name);
      const auto it = values.find(name);
      SectionReader reader(name, it == values.end() ? std::map<std::string, Source>{} : it->second);
      section.fields(reader);
      reader.finish();
    });
    for (const auto& [name, keys] : values)
      if (std::find(known.begin(), known.end(), name) == known.end())
        fail(keys.empty() ? where : keys.begin()->second.where, ": unknown section \"", name,
             "\"; the nearest known section is \"", nearest(name, known), "\"");
  } catch (const YAML::Exception& e) {
    fail(where, ": not valid YAML: ", e.what());
  }
  try {
    config.validate();
  } catch (const Error& e) {
    fail(where, ": ", e.what());
  }
  return config;
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_run_config(read_file(path, kConfigLimit), path, overrides);
}

std::vector<ConfigValue> config_values(RunConfig config) {
  std::vector<ConfigValue> values;
  config.sections([&](const char* name, auto& section) {
    ValueLister lister(name, values);
    section.fields(lister);
  });
  return values;
}

std::string format_run_config(RunConfig config) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  config.sections([&](const char* name, auto& section) {
    out << YAML::Key << name << YAML::Value << YAML::BeginMap;
    Printer printer(out);
    section.fields(printer);
    out << YAML::EndMap;
  });
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace mantissa
