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

  /// All fields of a config struct but `skipped` ones.
  template <class Config>
  void section(Config& config, std::set<std::string> skipped = {}) {
    skipped_ = std::move(skipped);
    config.fields(*this);
    skipped_.clear();
  }
  /// Of the choice declared last: why `word`, which the config's key of that name takes, is none here; ends the error.
  void not_here(const std::string& word, const std::string& why);
  /// Words without a flag.
  void words(const char* name, std::vector<std::string>& value, const char* help);
  /// The option declared last must be given.
  void required();

  /// Reads the command line. False when --help or --version was asked for and printed. Throws Error naming the option.
  bool parse(int argc, char** argv);
  /// Whether an option was given.
  bool given(const std::string& key) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::set<std::string> skipped_;
};

}  // namespace mantissa
