#include "backend/work_pool.h"

#include <unistd.h>

namespace actquant {
namespace {

constexpr uint32_t no_part = UINT32_MAX;
// 20 to 100 µs, by processor.
constexpr int spins = 2000;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns when the value is another one than `old`.
void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int k = 0; k < spins; k++) {
        if (value.load(std::memory_order_acquire) != old) {
            return;
        }
        pause();
    }
    value.wait(old, std::memory_order_acquire);
}

uint64_t ticket_of(uint32_t round, uint32_t part) {
    return static_cast<uint64_t>(round) << 32 | part;
}

} // namespace

WorkPool::WorkPool(int workers) : owner(getpid()) {
    for (int worker = 1; worker < workers; worker++) {
        helpers.emplace_back([this, worker] { help(worker); });
    }
}

WorkPool::~WorkPool() {
    if (getpid() != owner) {
        for (std::thread& helper : helpers) {
            helper.detach(); // it is not in this process: joining it would take for ever
        }
        return;
    }
    stopped = true;
    begun++;
    begun.notify_all();
    for (std::thread& helper : helpers) {
        helper.join();
    }
}

void WorkPool::run_parts(uint32_t parts, Function function, void* context) {
    if (helpers.empty() || parts < 2) {
        for (uint32_t part = 0; part < parts; part++) {
            function(context, part, 0);
        }
        return;
    }
    uint32_t round = begun.load(std::memory_order_relaxed) + 1;
    // A helper that is late for the round before finds nothing to take from here on.
    ticket.store(ticket_of(round, no_part));
    part_count.store(parts);
    work.store(function);
    work_context.store(context);
    done.store(0);
    ticket.store(ticket_of(round, 0));
    begun.store(round);
    begun.notify_all();
    take_parts(round, 0);
    for (uint32_t count = done.load(); count != parts; count = done.load()) {
        wait_for_change(done, count);
    }
}

void WorkPool::take_parts(uint32_t round, int worker) {
    while (true) {
        uint64_t seen = ticket.load();
        uint32_t part = static_cast<uint32_t>(seen);
        uint32_t parts = part_count.load();
        Function function = work.load();
        void* context = work_context.load();
        if (seen >> 32 != round || part == no_part || part >= parts) {
            return;
        }
        // Fails if anybody took the part or the round ended since: then what was read may be of
        // another round, and is dropped.
        if (ticket.compare_exchange_weak(seen, seen + 1)) {
            function(context, part, worker);
            if (done.fetch_add(1) + 1 == parts) {
                done.notify_all();
            }
        }
    }
}

void WorkPool::help(int worker) {
    uint32_t seen = 0;
    while (true) {
        wait_for_change(begun, seen);
        seen = begun.load();
        if (stopped) {
            return;
        }
        take_parts(seen, worker);
    }
}

} // namespace actquant
