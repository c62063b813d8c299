#include "rl/reward/rewards.h"

#include <algorithm>

#include "core/error.h"
#include "core/notice.h"
#include "core/text.h"

namespace mantissa {
namespace {

/// The keys of a map inside a section: "kind" becomes "answer.kind".
class InsideFields final : public Fields {
 public:
  InsideFields(Fields& outer, const std::string& name) : outer_(outer), name_(name) {}
  void field(const char* key, bool& value, const Help& help) override { outer_.field(at(key).c_str(), value, help); }
  void field(const char* key, int64_t& value, const Help& help, Range range) override {
    outer_.field(at(key).c_str(), value, help, range);
  }
  void field(const char* key, double& value, const Help& help, Range range) override {
    outer_.field(at(key).c_str(), value, help, range);
  }
  void field(const char* key, std::string& value, const Help& help) override {
    outer_.field(at(key).c_str(), value, help);
  }
  void choice(const char* key, std::string& value, const std::vector<std::string>& choices, const Help& help) override {
    outer_.choice(at(key).c_str(), value, choices, help);
  }
  void field(const char* key, std::vector<std::string>& value, const Help& help) override {
    outer_.field(at(key).c_str(), value, help);
  }

 private:
  std::string at(const char* key) const { return name_ + "." + key; }
  Fields& outer_;
  const std::string& name_;
};

}  // namespace

bool NamedReward::grades(const std::string& source) const {
  return data_source.empty() || std::find(data_source.begin(), data_source.end(), source) != data_source.end();
}

void RewardsConfig::fields(Fields& f) {
  for (const std::string& name : f.maps()) named[name];
  if (named.empty()) one.fields(f);
  for (auto& [name, r] : named) {
    InsideFields inside(f, name);
    r.reward.fields(inside);
    inside.field("weight", r.weight, "of a reward with a name: its factor in the sum that a response earns",
                 between(-1e6, 1e6));
    inside.field("data_source", r.data_source,
                 "of a reward with a name: grades the rows with one of these as data_source; []: all");
  }
}

void RewardsConfig::validate() const {
  if (named.empty()) one.validate();
  constexpr const char* kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  for (const auto& [name, r] : named)
    check(!name.empty() && name.find_first_not_of(kLetters) == name.npos,
          "reward.NAME: must be a name of the letters a to z and A to Z, digits, _ and -, got \"", name, '"');
  for (const auto& [name, r] : named) try {
      r.reward.validate();
    } catch (const Error& e) {
      fail("reward.", name, ": ", e.what());
    }
}

std::vector<std::string> RewardsConfig::misplaced() const {
  if (named.empty()) return one.misplaced();
  std::vector<std::string> keys;
  for (const auto& [name, r] : named)
    for (const std::string& key : r.reward.misplaced()) keys.push_back("reward." + name + key.substr(key.find('.')));
  return keys;
}

void RewardsConfig::set_log_file(const std::string& path) {
  one.log_file = path;
  for (auto& [name, r] : named) r.reward.log_file = path;
}

void RewardsConfig::check_gold(const std::string& data_source, std::string_view gold, const std::string& where) const {
  if (named.empty()) mantissa::check_gold(one, gold, where);
  for (const auto& [name, r] : named)
    if (r.grades(data_source)) mantissa::check_gold(r.reward, gold, where);
}

std::string RewardsConfig::notice() const {
  if (named.empty()) return reward_notice(one);
  for (const auto& [name, r] : named)
    if (const std::string notice = reward_notice(r.reward); !notice.empty()) return notice;
  return "";
}

void RewardsConfig::check_source(const std::string& data_source, const std::string& where) const {
  const auto grades = [&](const auto& entry) { return entry.second.grades(data_source); };
  check(named.empty() || std::ranges::any_of(named, grades), where, ": no reward grades data_source \"", data_source,
        "\" (reward.NAME.data_source)");
}

void RewardsConfig::note_sources(const std::set<std::string>& sources) const {
  std::vector<std::string> quoted;
  for (const std::string& source : sources) quoted.push_back('"' + source + '"');
  for (const auto& [name, r] : named)
    for (const std::string& wanted : r.data_source)
      if (!sources.contains(wanted))
        mantissa::notice(str("reward.", name, ".data_source: no row of data.files or eval.files has \"", wanted,
                             "\"; there are ", join(quoted)));
}

}  // namespace mantissa
