#pragma once

#include "file/policy_spec.h"

#include <set>
#include <string>

namespace actquant {

// How a policy's programs read the file's tensors.
struct Reads {
    std::set<std::string> whole;
    std::set<std::string> looked_up; // tables of which single rows are read, and nothing else is
};

Reads reads_of(const PolicySpec& spec);

} // namespace actquant
