// Counting in words: numbers, scales, and the nouns of what is counted.
#pragma once

#include <gmpxx.h>

#include <optional>
#include <span>
#include <string_view>

namespace mantissa {

/// What a word multiplies a number by: 1000000 for "million", 12 for "dozen"; 0 for a word that is no scale.
mpz_class scale_of_word(std::string_view word);

/// one, twenty, million.
bool is_number_word(std::string_view word);

/// The cardinal that the first of `words` spell, "twenty-five thousand", "a dozen", and how many of them it takes.
std::optional<mpz_class> cardinal_of_words(std::span<const std::string_view> words, size_t& taken);

/// Whether a word behind a number only says what is counted: a plural ("apples", "children"), but no fraction
/// ("halves"), no other number word and nothing that changes the value ("times", "less").
bool is_count_noun(std::string_view word);

/// The same noun in the same or another number: "apple", "apples".
bool same_noun(std::string_view a, std::string_view b);

}  // namespace mantissa
