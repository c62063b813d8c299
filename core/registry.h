// The backends of this program, by name. The CPU's is always there; others are added by register_backend, called
// explicitly by tools and tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"

namespace mantissa {

Backend& cpu();
/// Adds a backend; the name must be new.
void register_backend(std::unique_ptr<Backend> backend);
/// Remembers why `name` is not there, for the error of find_backend.
void set_unavailable(const std::string& name, const std::string& reason);
/// By name ("cuda:N" finds "cuda"); "auto" is the last one registered. Throws with the reason, or a list of all.
Backend& find_backend(const std::string& name);
std::vector<std::string> backend_names();

}  // namespace mantissa
