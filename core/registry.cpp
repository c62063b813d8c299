#include "core/registry.h"

#include <map>

#include "core/cpu/cpu.h"
#include "core/text.h"

namespace mantissa {
namespace {

std::vector<std::unique_ptr<Backend>>& registry() {
  static std::vector<std::unique_ptr<Backend>> backends = [] {
    std::vector<std::unique_ptr<Backend>> list;
    list.push_back(make_cpu_backend());
    return list;
  }();
  return backends;
}

std::map<std::string, std::string>& reasons() {
  static std::map<std::string, std::string> unavailable;
  return unavailable;
}

}  // namespace

Backend& cpu() {
  return *registry().front();
}

void register_backend(std::unique_ptr<Backend> backend) {
  for (const auto& known : registry())
    check(known->name() != backend->name(), "[backend] \"", backend->name(), "\" is registered already");
  registry().push_back(std::move(backend));
}

void set_unavailable(const std::string& name, const std::string& reason) {
  reasons()[name] = reason;
}

Backend& find_backend(const std::string& name) {
  if (name == "auto") return *registry().back();
  const std::string kind = name.substr(0, name.find(':'));  // "cuda:1": the number was chosen when it was opened
  for (const auto& known : registry())
    if (known->name() == kind) return *known;
  if (const auto it = reasons().find(kind); it != reasons().end())
    fail("device \"", name, "\" is not available: ", it->second);
  fail("device \"", name, "\" is not available; this program has: auto, ", join(backend_names()));
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const auto& backend : registry()) names.push_back(backend->name());
  return names;
}

}  // namespace mantissa
