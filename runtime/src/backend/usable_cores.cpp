#include "backend/usable_cores.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace actquant {
namespace {

int affinity_cores() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        return CPU_COUNT(&set);
    }
#endif
    return static_cast<int>(std::thread::hardware_concurrency());
}

// "QUOTA PERIOD" in microseconds, or "max PERIOD"; 0 for the latter, and where there is no file.
int quota_cores(const std::filesystem::path& folder) {
    std::ifstream file(folder / "cpu.max");
    double quota = 0, period = 0;
    if (!(file >> quota >> period) || quota <= 0 || period <= 0) {
        return 0;
    }
    return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

} // namespace

int cgroup_cores(const std::string& membership, const std::string& root) {
    std::istringstream lines(membership);
    std::filesystem::path group;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with("0::/")) {
            group = line.substr(4);
        }
    }
    // A group is bound by the limits of those above it too.
    int least = 0;
    for (std::filesystem::path at = std::filesystem::path(root) / group;; at = at.parent_path()) {
        int own = quota_cores(at);
        least = least == 0 || (own > 0 && own < least) ? own : least;
        if (at == at.parent_path() || at == std::filesystem::path(root)) {
            return least;
        }
    }
}

int usable_cores() {
    int cores = std::max(affinity_cores(), 1);
    int allowed = cgroup_cores(text_of("/proc/self/cgroup"), "/sys/fs/cgroup");
    return allowed > 0 ? std::min(cores, allowed) : cores;
}

} // namespace actquant
