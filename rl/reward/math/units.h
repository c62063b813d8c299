// Units of measure as words of an answer.
#pragma once

#include <string_view>

namespace mantissa {

/// The unit that a word is a spelling of: "cm" for "centimetres"; "" for a word that is none.
std::string_view unit_of_word(std::string_view word);

}  // namespace mantissa
