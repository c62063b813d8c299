// The command line of a program. It is a Fields, so a config struct declares its own flags: key "max_new_tokens"
// becomes --max-new-tokens, with the struct's default, help and range.
#pragma once

#include <memory>
#include <set>

#include "core/fields.h"

namespace mantissa {

class Arguments final : public Fields {
 public:
  /// `program` is the name users call, `help` one paragraph on what it does.
  Arguments(const std::string& program, const std::string& help);
  ~Arguments() override;

  // Values are written by parse(), so they must live until then. The narrow forms (int, float) of Fields pass a local
  // and cannot work here.
  void field(const char* key, bool& value, const Help& help) override;  // --key and --no-key
  void field(const char* key, int64_t& value, const Help& help, Range range) override;
  void field(const char* key, double& value, const Help& help, Range range) override;
  void field(const char* key, std::string& value, const Help& help) override;
  void choice(const char* key, std::string& value, const std::vector<std::string>& choices, const Help& help) override;
  void field(const char* key, std::vector<std::string>& value, const Help& help) override;

  /// All fields of section `name` of a config but `skipped` ones.
  template <class Config>
  void section(const std::string& name, Config& config, std::set<std::string> skipped = {}) {
    section_ = name;
    skipped_ = std::move(skipped);
    config.fields(*this);
    section_.clear();
    skipped_.clear();
  }
  /// Of the choice declared last: why `word`, which the config's key of that name takes, is none here; ends the error.
  void not_here(const std::string& word, const std::string& why);
  /// The option declared last is what this key of a config is: messages that name the key name the flag then.
  void stands_for(const std::string& key);
  /// Words without a flag.
  void words(const char* name, std::vector<std::string>& value, const char* help);
  /// The option declared last must be given.
  void required();
  /// The option declared last takes no empty text, which is what a shell makes of a variable that is not set.
  void not_empty();

  /// Reads the command line. False when --help or --version was asked for and printed. Throws Error naming the option.
  bool parse(int argc, char** argv);
  /// Whether an option was given.
  bool given(const std::string& key) const;

 private:
  /// False for a field that has no flag here; of others with_flags() knows the key from now on.
  bool declare(const char* key) const;

  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::string section_;
  std::set<std::string> skipped_;
};

/// A message that may name keys of a config, with the flags that stand for them on this process's command line:
/// "rollout.max_batch" becomes "--max-batch" where a section "rollout" has been declared.
std::string with_flags(std::string message);

}  // namespace mantissa
