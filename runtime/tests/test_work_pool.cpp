// Every part is worked on once, by one worker at a time, also by more threads than there are cores.
#include "backend/work_pool.h"
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <random>
#include <vector>

using namespace actquant;

static void every_part_once(int workers, int rounds) {
    WorkPool pool(workers);
    CHECK(pool.workers() == workers);
    std::mt19937 random(static_cast<unsigned>(workers));
    for (int round = 0; round < rounds; round++) {
        uint32_t parts = random() % 40;
        std::vector<int> calls(parts, 0); // not atomic: a part taken twice would be a race
        std::unique_ptr<std::atomic<bool>[]> busy(
            new std::atomic<bool>[static_cast<size_t>(workers)]());
        std::atomic<uint64_t> sum{0};
        pool.run(parts, [&](uint32_t part, int worker) {
            CHECK(worker >= 0 && worker < workers);
            CHECK(!busy[static_cast<size_t>(worker)].exchange(true));
            calls[part]++;
            sum += part;
            busy[static_cast<size_t>(worker)] = false;
        });
        for (int count : calls) {
            CHECK(count == 1);
        }
        CHECK(sum == uint64_t{parts} * (parts == 0 ? 0 : parts - 1) / 2);
    }
}

static void helpers_wake_after_a_pause() {
    WorkPool pool(3);
    for (int round = 0; round < 20; round++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        std::atomic<int> calls{0};
        pool.run(24, [&](uint32_t, int) { calls++; });
        CHECK(calls == 24);
    }
}

// A child's pool has no helpers; it ends, and does not wait for them.
static void ends_in_a_forked_process() {
    WorkPool pool(3);
    pid_t child = fork();
    if (child == 0) {
        pool.~WorkPool();
        _exit(7);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

int main() {
    every_part_once(1, 200);
    every_part_once(2, 20000);
    every_part_once(3, 5000);
    every_part_once(9, 2000);
    helpers_wake_after_a_pause();
    ends_in_a_forked_process();
    for (int round = 0; round < 200; round++) { // begun and ended without work
        WorkPool pool(4);
    }
}
