#pragma once

#include "backend/profile.h"
#include "backend/work_pool.h"
#include "kernels/isa.h"

#include <ggml-backend.h>

#include <cstdint>
#include <functional>
#include <memory>

struct ggml_threadpool;

namespace actquant {

struct BufferDeleter {
    void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
using BufferPointer = std::unique_ptr<ggml_backend_buffer, BufferDeleter>;

// What computes the graphs and owns their memory; nothing outside this folder knows that it is the
// CPU. Its threads live as long as the session, so that an action does not pay for starting them.
//
// Where our kernels do the products, only they and attention are shared out, by a pool of our own:
// ggml's threads meet at a barrier after every operator, however small, and spin there, which on a
// machine that does something else as well costs many times what it saves.
class Backend {
  public:
    // threads = 0: as many as a model of this size has work for. rounded: weights have few bits.
    Backend(int threads, uint64_t parameter_count, bool rounded);
    ~Backend();

    // Throws Error in a process that was forked since: threads are not forked with it.
    void demand_threads() const;
    int threads() const { return thread_count; }
    Isa isa() const { return instructions; }
    // What our kernels share their work out by; null where ggml's threads run them.
    WorkPool* pool() const { return work_pool.get(); }
    ggml_backend_buffer_type_t buffer_type() const;
    // A buffer over memory that is there already and outlives it, e.g. a mapped file.
    BufferPointer place(void* data, size_t bytes) const;
    void compute(ggml_cgraph* graph);
    // The same, one node after the other, each followed by done(node, seconds).
    void compute_by_node(ggml_cgraph* graph,
                         const std::function<void(ggml_tensor* node, double seconds)>& done);
    // Where what is computed is noted; null but while a policy is profiled.
    Profile* profile() const { return active_profile; }
    void set_profile(Profile* profile) { active_profile = profile; }
    // What ggml needs beside the graph's buffer while it computes.
    size_t work_bytes(ggml_cgraph* graph) const;

  private:
    struct BackendDeleter {
        void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
    };
    struct PoolDeleter {
        void operator()(ggml_threadpool* pool) const;
    };

    int thread_count;
    Profile* active_profile = nullptr;
    Isa instructions;
    std::unique_ptr<WorkPool> work_pool;
    std::unique_ptr<ggml_threadpool, PoolDeleter> ggml_pool;
    std::unique_ptr<ggml_backend, BackendDeleter> handle;
    const pid_t owner;
};

} // namespace actquant
