#include "rl/text/jinja/template.h"

#include "core/error.h"
#include "rl/text/jinja/parser.h"
#include "rl/text/jinja/renderer.h"
#include "rl/text/unicode.h"

namespace mantissa::jinja {

Template::Template(std::string_view source, std::string where) : where_(std::move(where)) {
  try {
    const Work limit;
    body_ = parse(to_valid_utf8(source));
  } catch (const Error& e) {
    fail(where_, ": ", e.what());
  }
}

std::string Template::render(const Dict& variables, std::time_t now) const {
  try {
    return jinja::render(body_, variables, now);
  } catch (const Error& e) {
    fail(where_, ": ", e.what());
  }
}

}  // namespace mantissa::jinja
