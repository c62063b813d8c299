// The keys of a config for people: the type, meaning and rule of each, as `trainer --keys` prints them and
// docs/config.md keeps them; and which key was meant where somebody wrote one that there is not.
#pragma once

#include <string>
#include <vector>

#include "rl/config.h"

namespace mantissa {

/// A key of a config, its value in the config that was asked, and what is known about it.
struct ConfigKey {
  std::string name;      // "optim.lr"
  std::string text;      // the value
  std::string type;      // "number", "integer", "true or false", "text", "list of texts", or the choices
  std::string rule;      // "at least 0"; may be empty
  std::string meaning;   // may be several sentences' worth, no full stop
  bool decisive = true;  // decides a run's bits: a resumed run must find it as it was (core/fields.h)
};
/// All keys in the order of the file.
std::vector<ConfigKey> config_keys(RunConfig config = {});

/// A key whose value differs between two configs, and both; "not there" where one lacks it, as those of named rewards.
struct KeyDifference {
  ConfigKey key;
  std::string first, second;
  /// "optim.lr: 1e-06, RELATION optim.lr: 1e-05".
  std::string text(const std::string& relation) const;
};
std::vector<KeyDifference> different_keys(const std::vector<ConfigKey>& first, const std::vector<ConfigKey>& second);

/// Markdown: a heading a section, a line a key, defaults included, "reward.NAME.weight" for a reward of any name. With
/// prefixes ("optim", "rollout.max", "reward.x.weight") the keys that begin so, and Error naming the nearest key where
/// none does; without any the whole reference, its introduction first.
std::string describe_keys(const std::vector<std::string>& prefixes);

/// The known key that "section.key" (or a path of more parts) was meant to be: the one that TRL or verl know by that
/// name, one of that name in another section, or the one that is spelt most like it.
std::string nearest_key(const std::string& name);
/// What nearest_key knows of other programs: their name for a key, and ours.
const std::vector<std::pair<std::string, std::string>>& foreign_keys();

}  // namespace mantissa
