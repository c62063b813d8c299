// Notices: what a reader of the log should know although nothing failed, such as a library that is not used and why.
// Whoever writes the log sets where they go; until then they are lines on stderr.
#pragma once

#include <functional>
#include <string>

namespace mantissa {

using NoticeSink = std::function<void(const std::string& text)>;

/// Sends notices to `sink` from now on; an empty one means stderr. Not to be called while other threads give notices.
void set_notice_sink(NoticeSink sink);
/// Gives one notice: text without a newline.
void notice(const std::string& text);

}  // namespace mantissa
