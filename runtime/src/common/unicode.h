#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace actquant {

bool is_utf8(std::string_view text);
// Bytes that are no UTF-8 become U+FFFD.
std::u32string from_utf8(std::string_view text);
std::string to_utf8(std::u32string_view text);
void append_utf8(std::string& text, char32_t c);

// General categories as sets of bits.
uint32_t category_bit(char32_t c);
// Of a name like "Lu", or a first letter like "L"; 0 if there is none.
uint32_t category_mask(std::string_view name);

bool is_white_space(char32_t c); // the property White_Space
bool is_word(char32_t c);        // \w: letters, marks, decimal digits, connectors, joiners
bool is_numeric(char32_t c);     // any kind of number

void append_lowercase(std::u32string& text, char32_t c);
// str.lower(), str.strip() and Normalization Form C of Python.
std::u32string lowercase(std::u32string_view text);
std::u32string strip(std::u32string_view text);
std::u32string compose(std::u32string_view text);

} // namespace actquant
