#include "rl/logging/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace mantissa {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_color_st("mantissa");
    made->set_pattern("%H:%M:%S %^%v%$");
    return made;
  }();
  return *instance;
}

}  // namespace

void log_info(const std::string& text) {
  logger().log(spdlog::level::info, "{}", text);
}
void log_warning(const std::string& text) {
  logger().log(spdlog::level::warn, "{}", text);
}

}  // namespace mantissa
