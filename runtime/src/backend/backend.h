#pragma once

#include "kernels/isa.h"

#include <ggml-backend.h>

#include <cstdint>
#include <memory>

struct ggml_threadpool;

namespace actquant {

struct BufferDeleter {
    void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
using BufferPointer = std::unique_ptr<ggml_backend_buffer, BufferDeleter>;

// What computes the graphs and owns their memory; nothing outside this folder knows that it is the
// CPU. Its thread pool lives as long as the session, so that an action does not pay for starting
// threads.
class Backend {
  public:
    // threads = 0: as many as a model of this size has work for.
    Backend(int threads, uint64_t parameter_count);

    int threads() const { return thread_count; }
    Isa isa() const { return instructions; }
    ggml_backend_buffer_type_t buffer_type() const;
    // A buffer over memory that is there already and outlives it, e.g. a mapped file.
    BufferPointer place(void* data, size_t bytes) const;
    void compute(ggml_cgraph* graph);
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
    Isa instructions;
    std::unique_ptr<ggml_threadpool, PoolDeleter> pool;
    std::unique_ptr<ggml_backend, BackendDeleter> handle;
};

} // namespace actquant
