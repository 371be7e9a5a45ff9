#pragma once

#include <string>
#include <string_view>

namespace actquant {

// What a text that is to be JSON lacks; empty where it is JSON whose values are nested at most as
// deep as limits::json_depth, so that what reads it may recurse.
std::string what_json_lacks(std::string_view text);

} // namespace actquant
