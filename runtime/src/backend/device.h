#pragma once

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <memory>

namespace actquant {

// The CPU backend with a thread pool that lives as long as the session, so that an action does not
// pay for starting threads.
class Device {
  public:
    // threads = 0: as many as a model of this size has work for.
    Device(int threads, uint64_t parameter_count);

    int threads() const { return thread_count; }
    ggml_backend_t backend() const { return handle.get(); }
    void compute(ggml_cgraph* graph);

  private:
    struct BackendDeleter {
        void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
    };
    struct PoolDeleter {
        void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
    };

    int thread_count;
    std::unique_ptr<ggml_threadpool, PoolDeleter> pool;
    std::unique_ptr<ggml_backend, BackendDeleter> handle;
};

} // namespace actquant
