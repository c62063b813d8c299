#include "core/notice.h"

#include <cstdio>

namespace mantissa {
namespace {

NoticeSink& sink() {
  static NoticeSink current;
  return current;
}

}  // namespace

void set_notice_sink(NoticeSink to) {
  sink() = std::move(to);
}

void notice(const std::string& text) {
  if (sink())
    sink()(text);
  else
    std::fprintf(stderr, "%s\n", text.c_str());
}

}  // namespace mantissa
