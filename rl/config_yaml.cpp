// The YAML reader: the only file that sees yaml-cpp. A section's fields() drives it key by key.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "core/file.h"
#include "core/number.h"
#include "core/text.h"
#include "nn/formats/peft.h"
#include "rl/config_keys.h"
#include "rl/logging/log.h"
#include "rl/text/unicode.h"
#include "rl/unread_keys.h"

namespace mantissa {
namespace {

constexpr size_t kConfigLimit = size_t(1) << 20;

/// A value with where it stands: "file.yaml line 12" or "override optim.lr=x". An override's is the text as it was
/// given: only the key's type makes more of it.
struct Source {
  YAML::Node node;
  std::string where;
  bool literal = false;
};

/// The items of an override "[a, 'b, c']": all that stands between commas, or between quotes as YAML reads them.
std::vector<std::string> read_list(std::string_view text, const std::string& place) {
  std::vector<std::string> items;
  const auto skip_blanks = [&] { text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size())); };
  text = text.substr(1, text.size() - 2);
  for (skip_blanks(); !text.empty(); skip_blanks()) {
    size_t end = 0;
    if (const char quote = text[0]; quote == '"' || quote == '\'') {
      const auto doubled = [&] { return quote == '\'' && text.substr(end).starts_with("''"); };
      for (end = 1; end < text.size() && (text[end] != quote || doubled()); ++end)
        end += doubled() || (quote == '"' && text[end] == '\\');
      check(end < text.size(), place, "has a quote that is not closed");
      items.push_back(YAML::Load(std::string(text.substr(0, end + 1))).Scalar());
      text.remove_prefix(end + 1);
      skip_blanks();
      end = 0;
    } else {
      end = std::min(text.find(','), text.size());
      const size_t last = text.substr(0, end).find_last_not_of(" \t\n");
      check(last != text.npos, place, "has an empty item between commas");
      items.emplace_back(text.substr(0, last + 1));
    }
    check(end == text.size() || text[end] == ',', place, "has an item that goes on behind its quotes");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return items;
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
    const YAML::Node& list = source->node;
    value.clear();
    if (list.IsScalar()) {
      const std::string& text = list.Scalar();
      const bool flow = source->literal && text.starts_with('[') && text.ends_with(']');
      if (flow)
        value = read_list(text, place(key));
      else if (!source->literal || !text.empty())
        value.push_back(text);
      for (const std::string& item : value) check_text(key, item);
      return;
    }
    check(list.IsSequence(), place(key), "must be a string or a list of strings");
    for (const YAML::Node& item : list) {
      check(item.IsScalar(), place(key), "must be a list of strings");
      check_text(key, item.Scalar());
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

  bool given(const char* key) const override {
    const auto it = values_.find(key);
    return it != values_.end() && !it->second.node.IsNull();
  }

  /// Throws when a key of the section was not asked for.
  void finish() const {
    for (const auto& [key, source] : values_)
      if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
        check(section_ != "reward" || maps().empty() || key.find('.') != std::string::npos, source.where, ": reward.",
              key, " stands beside rewards that have names (", join(maps()), "): must be inside one of them");
        fail(source.where, ": unknown key \"", section_, ".", key, "\"; the nearest known key is \"", nearest_of(key),
             "\" (trainer --keys lists all of them)");
      }
  }

 private:
  const Source* find(const char* key) {
    known_.push_back(key);
    const auto it = values_.find(key);
    if (it == values_.end()) return nullptr;
    const YAML::Node& node = it->second.node;
    check(!node.Tag().starts_with("!") || node.Tag() == "!", place(key), "has the YAML tag ", node.Tag(),
          ": a value that begins with ! stands in quotes");
    if (!node.IsNull()) return &it->second;
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
    if constexpr (std::is_same_v<T, std::string>) check_text(key, read_value);
    value = read_value;
  }

  void check_text(const char* key, const std::string& text) const {
    check(text.find('\0') == text.npos, place(key), "must have no NUL character, got \"", text.c_str(), "\" and a NUL");
  }

  /// Whole numbers are compared as doubles and printed as what they are.
  template <class T>
  void in_range(const char* key, T value, Range range) const {
    check(double(value) >= range.low && double(value) <= range.high, place(key), "must be ", rule_of<T>(range),
          ", got ", shortest(value));
  }

  /// The keys of a named reward ("a.kind" of section reward) are those of the plain one; elsewhere a map is no value.
  std::string nearest_of(const std::string& key) const {
    if (section_ != "reward") return nearest_key(section_ + "." + key.substr(0, key.find('.')));
    const size_t name = key.find('.') + 1;
    std::string nearest = nearest_key(section_ + "." + key.substr(name));
    if (nearest.starts_with(section_ + ".")) nearest.insert(section_.size() + 1, key, 0, name);
    return nearest;
  }

  std::string section_;
  std::map<std::string, Source> values_;
  std::vector<std::string> known_;
};

class Printer : public Fields {
 public:
  explicit Printer(YAML::Emitter& out) : out_(out) {}
  void field(const char* key, bool& value, const Help&) override { pair(key) << value; }
  void field(const char* key, int64_t& value, const Help&, Range) override { pair(key) << value; }
  void field(const char* key, double& value, const Help&, Range) override { pair(key) << shortest(value); }
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

std::vector<std::string> known_sections() {
  std::vector<std::string> names;
  RunConfig().sections([&](const char* name, auto&) { names.push_back(name); });
  return names;
}

/// Whether there is a tab before the first character of a line, counted from 0.
bool tab_indents(const std::string& yaml, int line) {
  std::istringstream lines(yaml);
  std::string text;
  for (int i = 0; i <= line && std::getline(lines, text); ++i) {
  }
  return text.substr(0, text.find_first_not_of(" \t")).find('\t') != text.npos;
}

Values read_values(const std::string& yaml, const std::string& where) {
  const std::string valid = to_valid_utf8(yaml);
  const auto wrong = std::mismatch(yaml.begin(), yaml.end(), valid.begin(), valid.end()).first;
  check(wrong == yaml.end(), where, " line ", 1 + std::count(yaml.begin(), wrong, '\n'), ": is not valid UTF-8");
  const std::vector<std::string> known = known_sections();
  Values values;
  YAML::Node root;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(yaml);
    check(documents.size() <= 1, where, ": must be one YAML document, got ", documents.size(),
          " (\"---\" begins another)");
    if (!documents.empty()) root.reset(documents[0]);
  } catch (const YAML::Exception& e) {
    fail(where, " line ", e.mark.line + 1, ": not valid YAML: ", e.msg,
         tab_indents(yaml, e.mark.line) ? " (a tab indents the line; YAML takes spaces alone)" : "");
  }
  check(root.IsMap(), where, ": must be a map of sections, got ",
        root.IsNull()       ? "nothing"
        : root.IsSequence() ? "a list"
                            : "a text");
  for (const auto& section : root) {
    check(section.first.IsScalar(), where, ": section names must be strings");
    const std::string name = section.first.Scalar();
    const std::string line = str(where, " line ", section.first.Mark().line + 1);
    check(!values.contains(name), line, ": section \"", name, "\" appears twice");
    values[name];
    if (section.second.IsNull()) {
      check(std::ranges::count(known, name) > 0, line, ": unknown section \"", name, "\"; known are ", join(known));
      log_info(str(line, ": section \"", name, "\" is null: its keys keep their defaults"));
      continue;
    }
    const size_t dot = name.find('.');
    check(dot == name.npos || nearest_key(name) != name, line, ": \"", name,
          "\" is a word of the command line; in a config it is ", name.substr(0, dot), ": {", name.substr(dot + 1),
          ": ...}");
    check(section.second.IsMap(), line, ": section \"", name, "\" must be a map of keys; the known key nearest to \"",
          name, "\" is \"", nearest_key(name), "\"");
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
        "\": must be section.key=value; the known key nearest to it is \"", nearest_key(text.substr(0, equals)), "\"");
  values[text.substr(0, dot)][text.substr(dot + 1, equals - dot - 1)] = {YAML::Node(text.substr(equals + 1)),
                                                                         "override " + text, true};
}

/// rollout.rounding of earlier versions becomes precision.match, and a notice says what.
void read_rounding(Values& values) {
  const auto section = values.find("rollout");
  if (section == values.end() || !section->second.contains("rounding")) return;
  const Source source = section->second.at("rounding");
  section->second.erase("rounding");
  const std::string value = source.node.IsScalar() ? source.node.Scalar() : "";
  check(value == "same" || value == "peer", source.where, ": rollout.rounding must be one of same, peer; got \"", value,
        '"');
  check(!values["precision"].contains("match"), source.where,
        ": rollout.rounding is an earlier name of precision.match, which is given too: keep one of both");
  std::string device = "auto";
  if (values["run"].contains("device") && values["run"].at("device").node.IsScalar())
    device = values["run"].at("device").node.Scalar();
  const std::string match = value == "peer" ? "peer" : device == "cpu" ? "exact" : device == "cuda" ? "fast" : "auto";
  values["precision"]["match"] = {YAML::Node(match), source.where};
  log_info(str(source.where, ": rollout.rounding: ", value, " is read as precision.match: ", match));
}

/// model.lora_rank and model.lora_alpha of earlier versions become keys of section lora; a notice says so where they
/// ask for something.
void read_lora(Values& values) {
  const auto section = values.find("model");
  if (section == values.end()) return;
  for (const std::string key : {"rank", "alpha"}) {
    const auto it = section->second.find("lora_" + key);
    if (it == section->second.end()) continue;
    const Source source = it->second;
    section->second.erase(it);
    check(!values["lora"].contains(key), source.where, ": model.lora_", key, " is an earlier name of lora.", key,
          ", which is given too: keep one of both");
    values["lora"][key] = source;
    if (key == "rank" && source.node.IsScalar() && source.node.Scalar() != "0")
      log_info(str(source.where, ": model.lora_rank is read as lora.rank"));
  }
}

/// Every key by itself is as it must be; what keys ask of each other is not looked at.
RunConfig read_config(const std::string& yaml, const std::string& where, const std::vector<std::string>& overrides) {
  RunConfig config;
  try {
    Values values = read_values(yaml, where);
    for (const std::string& text : overrides) apply_override(values, text);
    read_rounding(values);
    read_lora(values);
    config.sections([&](const char* name, auto& section) {
      const auto it = values.find(name);
      SectionReader reader(name, it == values.end() ? std::map<std::string, Source>{} : it->second);
      section.fields(reader);
      reader.finish();
    });
    const std::vector<std::string> known = known_sections();
    for (const auto& [name, keys] : values) {
      if (std::ranges::count(known, name) > 0) continue;
      check(!keys.empty(), where, ": unknown section \"", name, "\"; known are ", join(known));
      const std::string key = name + "." + keys.begin()->first;
      fail(keys.begin()->second.where, ": unknown section \"", name, "\"; the known key nearest to \"", key, "\" is \"",
           nearest_key(key), "\" (trainer --keys lists all of them)");
    }
  } catch (const YAML::Exception& e) {
    fail(where, ": not valid YAML: ", e.what());
  }
  return config;
}

}  // namespace

RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides) {
  const RunConfig config = read_config(yaml, where, overrides);
  try {
    config.validate();
    refuse_unread_keys(config);
  } catch (const Error& e) {
    fail(where, ": ", e.what());
  }
  return config;
}

RunConfig parse_saved_config(const std::string& yaml, const std::string& where) {
  return read_config(yaml, where, {});
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  RunConfig config = parse_run_config(read_file(path, kConfigLimit), path, overrides);
  if (!config.lora.from_directory()) return config;
  AdapterConfig adapter;
  try {
    adapter = read_adapter_config(config.lora.init);
  } catch (const Error& e) {
    fail("lora.init: ", e.what());
  }
  config.lora.adopt(adapter);
  return config;
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
