// Boxes in a response: \boxed{}, \fbox{} and \framebox{}, the signs before them, and boxes that are one answer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

struct Box {
  size_t begin = 0, end = 0;  // the whole macro in the text
  std::string_view content;
};

/// Complete boxes not inside each other's content, last first, at most `limit` of them.
std::vector<Box> last_boxes(std::string_view text, size_t limit);

/// The content with the sign that belongs to it: a minus or \pm that touches the box or stands in its formula and has
/// nothing on its left that it would be subtracted from. "-\boxed{5}" and "$x = - \boxed{5}$" are -5; "- \boxed{5}" is
/// a bullet or a dash, "$8 - \boxed{5}$" a difference.
std::string signed_content(std::string_view text, const Box& box);

/// Of last_boxes, how many from the front are one answer in several boxes: only connecting words, commas and the signs
/// of mathematics stand between them.
size_t run_of_boxes(std::string_view text, const std::vector<Box>& boxes);

}  // namespace mantissa
