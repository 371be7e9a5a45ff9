// What a process may use of the cores that there are.
#include "backend/usable_cores.h"
#include "check.h"

#include <filesystem>
#include <fstream>

#include <sched.h>

using namespace actquant;

namespace {

const std::filesystem::path root = std::filesystem::current_path() / "cgroups";

void limit(const std::string& group, const std::string& text) {
    std::filesystem::create_directories(root / group);
    std::ofstream(root / group / "cpu.max") << text;
}

int cores_of(const std::string& group) {
    return cgroup_cores("12:cpuset:/elsewhere\n0::/" + group + "\n", root.string());
}

void check_groups() {
    limit("", "max 100000");
    limit("robot", "250000 100000");
    limit("robot/policy", "max 100000");
    limit("robot/camera", "50000 100000");
    CHECK(cores_of("") == 0);
    CHECK(cores_of("robot") == 3);
    CHECK(cores_of("robot/policy") == 3);
    CHECK(cores_of("robot/camera") == 1);
    CHECK(cores_of("not/there") == 0);
    limit("damaged", "many");
    CHECK(cores_of("damaged") == 0);
    std::filesystem::remove_all(root);
}

void check_affinity() {
    cpu_set_t before, one;
    CHECK(sched_getaffinity(0, sizeof(before), &before) == 0);
    CHECK(usable_cores() >= 1 && usable_cores() <= CPU_COUNT(&before));
    CPU_ZERO(&one);
    int first = 0;
    while (!CPU_ISSET(first, &before)) {
        first++;
    }
    CPU_SET(first, &one);
    CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
    CHECK(usable_cores() == 1);
    sched_setaffinity(0, sizeof(before), &before);
}

} // namespace

int main() {
    check_groups();
    check_affinity();
}
