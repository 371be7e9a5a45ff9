#pragma once

#include <string>

namespace actquant {

// How many cores this process may use: those of its affinity, and no more than the CPU time that
// its control group allows, rounded up. At least 1.
int usable_cores();

// The CPU time that control groups (version 2) allow, in cores rounded up; 0 where there is no
// limit. membership: the text of /proc/self/cgroup; root: where control groups are mounted.
int cgroup_cores(const std::string& membership, const std::string& root);

} // namespace actquant
