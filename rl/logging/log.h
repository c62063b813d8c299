// Log lines on stderr, with the time. The one place that knows spdlog.
#pragma once

#include <string>

namespace mantissa {

void log_info(const std::string& text);
void log_warning(const std::string& text);

}  // namespace mantissa
