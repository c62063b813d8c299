// libFuzzer target: the input is a chat template, rendered for a conversation. One that is wrong or not supported
// throws Error; whatever renders does so within the bounds of work, twice alike.
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "rl/text/jinja/template.h"

namespace {

mantissa::jinja::Dict variables() {
  using namespace mantissa::jinja;
  List messages;
  for (const auto& [role, content] :
       {std::pair("system", "Be brief."), {"user", " hi \n"}, {"assistant", "<think>é</think>b"}, {"user", ""}}) {
    Dict message;
    message.set("role", role);
    message.set("content", content);
    messages.emplace_back(std::move(message));
  }
  Dict all;
  all.set("messages", Value::list(std::move(messages)));
  all.set("bos_token", "<s>");
  all.set("tools", None());
  all.set("add_generation_prompt", true);
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mantissa;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const jinja::Work limit;
    const jinja::Template compiled(input, "fuzz");
    const jinja::Dict given = variables();
    if (compiled.render(given, 0) != compiled.render(given, 0)) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
