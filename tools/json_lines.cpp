#include "tools/json_lines.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/content.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"

namespace mantissa {

using nlohmann::json;

namespace {

constexpr size_t kMaxLine = size_t(16) << 20;

}  // namespace

struct JsonLines::Impl {
  std::string path;
  std::ifstream file;
  std::istream* in = nullptr;
  int64_t number = 0;
  bool any = false;  // objects so far
  std::string line, where;
  json object;

  const json& at(const std::string& key) const {
    const auto it = object.find(key);
    check(it != object.end(), where, ": key \"", key, "\" is missing");
    return *it;
  }
};

JsonLines::JsonLines(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->in = &std::cin;
  if (path == "-") return;
  check(!std::filesystem::is_directory(path), path, ": is a directory; wanted are JSON lines");
  check_content(path, "JSON lines");
  impl_->file.open(path, std::ios::binary);
  impl_->in = &impl_->file;
  check(impl_->file.good(), path, ": cannot be read");
  check(impl_->file.peek() != EOF, path, ": is empty; wanted are JSON lines");
}

JsonLines::~JsonLines() = default;

bool JsonLines::next() {
  Impl& s = *impl_;
  do {
    s.where = str(s.path, ':', ++s.number);
    if (!read_line(*s.in, s.line, kMaxLine, s.where)) {
      check(s.any || s.path == "-", s.path, ": has blank lines only; wanted are JSON lines");
      return false;
    }
  } while (s.line.find_first_not_of(" \t\r") == std::string::npos);
  check_json(s.line, s.where);
  s.object = json::parse(s.line, nullptr, false);
  const bool large = s.object.is_discarded();
  const std::string readable = large ? with_large_numbers(s.line) : "";
  if (large) s.object = json::parse(readable, nullptr, false);
  if (s.object.is_discarded()) fail(s.where, ": not valid JSON", json_fault(readable), json_lines_hint(s.line));
  check(s.object.is_object(), s.where, ": must be a JSON object: got ", with_article(s.object.type_name()),
        json_lines_hint(s.line));
  const std::string twice = repeated_key(large ? readable : s.line);
  check(twice.empty(), s.where, ": key \"", twice, "\" appears twice");
  s.any = true;
  return true;
}

const std::string& JsonLines::where() const {
  return impl_->where;
}
const std::string& JsonLines::line() const {
  return impl_->line;
}
bool JsonLines::has(const std::string& key) const {
  return impl_->object.contains(key);
}

std::string JsonLines::text(const std::string& key) const {
  const json& value = impl_->at(key);
  check(value.is_string(), impl_->where, ": \"", key, "\" must be a string: got ", with_article(value.type_name()));
  return value.get<std::string>();
}

std::string JsonLines::text_or_number(const std::string& key) const {
  const json& value = impl_->at(key);
  return value.is_number() ? value.dump() : text(key);
}

std::string JsonLines::json_of(const std::string& key) const {
  return impl_->at(key).dump();
}

double JsonLines::number(const std::string& key) const {
  const json& value = impl_->at(key);
  check(value.is_number(), impl_->where, ": \"", key, "\" must be a number: got ", with_article(value.type_name()));
  return value.get<double>();
}

int64_t JsonLines::integer(const std::string& key) const {
  const json& value = impl_->at(key);
  check(value.is_number_integer(), impl_->where, ": \"", key, "\" must be an integer: got ",
        value.dump().substr(0, 40));
  return value.get<int64_t>();
}

std::vector<std::string> JsonLines::texts(const std::string& key) const {
  const json& value = impl_->at(key);
  check(value.is_array() && std::ranges::all_of(value, [](const json& item) { return item.is_string(); }), impl_->where,
        ": \"", key, "\" must be an array of strings: got ", value.dump().substr(0, 40));
  return value.get<std::vector<std::string>>();
}

std::vector<int32_t> JsonLines::ids(const std::string& key) const {
  const json& value = impl_->at(key);
  check(value.is_array(), impl_->where, ": \"", key, "\" must be an array of integers: got ",
        with_article(value.type_name()));
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const json& item : value) {
    check(item.is_number_integer() && item >= 0 && item <= INT32_MAX, impl_->where, ": \"", key, "\" entry ",
          ids.size(), " must be an integer in [0, 2^31): got ", item.dump().substr(0, 40));
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

void print(const JsonObject& object) {
  std::cout << object.str() << '\n';
}

}  // namespace mantissa
