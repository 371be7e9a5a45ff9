#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace actquant {

// Threads that share out the parts of one piece of work after the other. Whoever is free takes the
// next part, so that a thread whose core is taken by another program holds up no more than the part
// it is at; who waits spins for some microseconds and then sleeps.
class WorkPool {
  public:
    // workers: the calling thread, and others that live as long as the pool. A process that was
    // forked since has none of the others: there the pool can only be destroyed.
    explicit WorkPool(int workers);
    ~WorkPool();
    WorkPool(const WorkPool&) = delete;
    WorkPool& operator=(const WorkPool&) = delete;

    int workers() const { return static_cast<int>(helpers.size()) + 1; }

    // Calls work(part, worker) once for each part from 0 to parts - 1, and returns when all are
    // done. No two calls at a time have the same worker. One thread at a time may call run.
    template <typename Work> void run(uint32_t parts, Work&& work) {
        auto call = [](void* context, uint32_t part, int worker) {
            (*static_cast<std::remove_reference_t<Work>*>(context))(part, worker);
        };
        run_parts(parts, call, &work);
    }

  private:
    using Function = void (*)(void* context, uint32_t part, int worker);

    void run_parts(uint32_t parts, Function function, void* context);
    void take_parts(uint32_t round, int worker);
    void help(int worker);

    // The round in the upper half, the next part in the lower one: a part is taken only in the
    // round that it belongs to.
    std::atomic<uint64_t> ticket{0};
    std::atomic<uint32_t> part_count{0};
    std::atomic<Function> work{nullptr};
    std::atomic<void*> work_context{nullptr};
    std::atomic<uint32_t> done{0};
    // The last round that was begun; helpers wait for it to change.
    std::atomic<uint32_t> begun{0};
    std::atomic<bool> stopped{false};
    std::vector<std::thread> helpers;
    const pid_t owner;
};

} // namespace actquant
