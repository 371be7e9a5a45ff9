#pragma once

#include "backend/work_pool.h"

namespace actquant {

// Calls work(part, parts, worker) for all parts of a node's work: by the pool, whose workers take
// several parts each, or without one for the part of the one thread of ggml's that asks.
template <typename Work> void share_out(WorkPool* pool, int thread, int threads, const Work& work) {
    if (pool == nullptr) {
        work(thread, threads, thread);
        return;
    }
    constexpr int parts_of_a_worker = 8;
    int parts = pool->workers() == 1 ? 1 : parts_of_a_worker * pool->workers();
    pool->run(static_cast<uint32_t>(parts),
              [&](uint32_t part, int worker) { work(static_cast<int>(part), parts, worker); });
}

} // namespace actquant
