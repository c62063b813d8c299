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

void set_log_rank(int rank, bool name) {
  if (rank == 0) return;
  logger().set_level(spdlog::level::warn);
  if (name) logger().set_pattern("[rank " + std::to_string(rank) + "] %H:%M:%S %^%v%$");
}
void log_info(const std::string& text) {
  logger().log(spdlog::level::info, "{}", text);
}
void log_warning(const std::string& text) {
  logger().log(spdlog::level::warn, "{}", text);
}

LogPause::LogPause() : level_(logger().level()) {
  logger().set_level(spdlog::level::off);
}
LogPause::~LogPause() {
  logger().set_level(spdlog::level::level_enum(level_));
}

}  // namespace mantissa
