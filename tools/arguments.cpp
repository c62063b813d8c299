// The only file that sees CLI11.
#include "tools/arguments.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <map>
#include <regex>

#include "core/error.h"
#include "core/number.h"
#include "core/text.h"

namespace mantissa {

struct Arguments::Impl {
  CLI::App app;
  std::string program;
  CLI::Option* last = nullptr;
  std::vector<std::function<void()>> rules;  // checked after parsing
  std::map<std::string, std::string> hints;  // by flag and word, see not_here
};

namespace {

std::string flag_of(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

/// Flags by the keys of a config that they stand for, these as patterns.
std::map<std::string, std::string>& flags_by_key() {
  static std::map<std::string, std::string> all;
  return all;
}

}  // namespace

std::string with_flags(std::string message) {
  for (const auto& [key, flag] : flags_by_key())  // whole keys: neither the end nor the beginning of a longer one
    message = std::regex_replace(message, std::regex("(^|[^\\w.])" + key + "(?!\\w|\\.\\w)"), "$1" + flag);
  return message;
}

bool Arguments::declare(const char* key) const {
  if (skipped_.contains(key)) return false;
  if (!section_.empty()) flags_by_key()[section_ + "\\." + key] = flag_of(key);
  return true;
}

Arguments::Arguments(const std::string& program, const std::string& help) : impl_(std::make_unique<Impl>()) {
  impl_->program = program;
  impl_->app.name(program);
  impl_->app.description(help);
  impl_->app.set_version_flag("--version", program + " (mantissa " MANTISSA_VERSION ")");
  impl_->app.option_defaults()->always_capture_default();
}

Arguments::~Arguments() = default;

void Arguments::field(const char* key, bool& value, const Help& help) {
  if (!declare(key)) return;
  const std::string flag = flag_of(key);
  impl_->last = impl_->app.add_flag(flag + ",!--no" + flag.substr(1), value, help.text);
}

namespace {

/// An option whose value is read as that of a config's key is.
template <class T>
CLI::Option* add_number(CLI::App& app, const std::string& flag, T& value, const Help& help, Range range) {
  const auto read = [flag, &value, range](const CLI::results_t& given) {
    const char* kind = std::is_same_v<T, int64_t> ? "an integer " : "a number ";
    check(read_number(given.back(), value), flag, " must be ", kind, rule_of<T>(range), ": got \"", given.back(), '"');
    return true;
  };
  CLI::Option* option = app.add_option(flag, read, help.text)->default_str(shortest(value));
  return option->type_name(std::is_same_v<T, int64_t> ? "INTEGER" : "NUMBER");
}

template <class T>
std::function<void()> range_rule(const std::string& flag, const T& value, Range range) {
  return [flag, &value, range] {
    check(std::isfinite(double(value)) && double(value) >= range.low && double(value) <= range.high, flag, " must be ",
          rule_of<T>(range), ": got ", shortest(value));
  };
}

}  // namespace

void Arguments::field(const char* key, int64_t& value, const Help& help, Range range) {
  if (!declare(key)) return;
  impl_->last = add_number(impl_->app, flag_of(key), value, help, range);
  impl_->rules.push_back(range_rule(flag_of(key), value, range));
}

void Arguments::field(const char* key, double& value, const Help& help, Range range) {
  if (!declare(key)) return;
  impl_->last = add_number(impl_->app, flag_of(key), value, help, range);
  impl_->rules.push_back(range_rule(flag_of(key), value, range));
}

void Arguments::field(const char* key, std::string& value, const Help& help) {
  if (!declare(key)) return;
  impl_->last = impl_->app.add_option(flag_of(key), value, help.text)->type_name("TEXT");
}

void Arguments::choice(const char* key, std::string& value, const std::vector<std::string>& choices, const Help& help) {
  if (!declare(key)) return;
  const std::string list = join(choices, "|");
  impl_->last = impl_->app.add_option(flag_of(key), value, help.text)->type_name(list);
  impl_->rules.push_back([flag = flag_of(key), &value, choices, list, &hints = impl_->hints] {
    const auto hint = hints.find(flag + " " + value);
    check(std::find(choices.begin(), choices.end(), value) != choices.end(), flag, " must be one of ", list, ": got \"",
          value, "\"", hint == hints.end() ? "" : "; " + hint->second);
  });
}

void Arguments::not_here(const std::string& word, const std::string& why) {
  impl_->hints[impl_->last->get_name() + " " + word] = why;
}

void Arguments::field(const char* key, std::vector<std::string>& value, const Help& help) {
  if (!declare(key)) return;
  impl_->last = impl_->app.add_option(flag_of(key), value, help.text)->type_name("TEXT")->default_str("");
}

void Arguments::stands_for(const std::string& key) {
  flags_by_key()[std::regex_replace(key, std::regex("\\."), "\\.")] = impl_->last->get_name();
}

void Arguments::words(const char* name, std::vector<std::string>& value, const char* help) {
  impl_->last = impl_->app.add_option(name, value, help)->type_name("");
}

void Arguments::required() {
  impl_->last->required();
}

void Arguments::not_empty() {
  impl_->last->check([](const std::string& text) { return std::string(text.empty() ? "must not be empty" : ""); });
}

bool Arguments::given(const std::string& key) const {
  return impl_->app.count(flag_of(key)) > 0;
}

bool Arguments::parse(int argc, char** argv) {
  try {
    impl_->app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    impl_->app.exit(e, std::cout, std::cerr);
    return false;
  } catch (const CLI::ParseError& e) {
    fail(impl_->program, ": ", e.what(), "; --help lists the options");
  }
  for (const auto& rule : impl_->rules) rule();
  return true;
}

}  // namespace mantissa
