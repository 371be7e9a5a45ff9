#pragma once

#include "backend/devices.h"
#include "backend/profile.h"
#include "backend/work_pool.h"
#include "kernels/isa.h"

#include <ggml-backend.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct ggml_threadpool;

namespace actquant {

struct BufferDeleter {
    void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
using BufferPointer = std::unique_ptr<ggml_backend_buffer, BufferDeleter>;

struct SchedulerDeleter {
    void operator()(ggml_backend_sched* scheduler) const { ggml_backend_sched_free(scheduler); }
};
// Shares a graph out between the device and the processor, and owns its memory.
struct Scheduler {
    std::unique_ptr<ggml_backend_sched, SchedulerDeleter> handle;
    size_t capacity = 0; // nodes and leafs
};

// What computes the graphs: the processor, or a device that has the processor beside it for what it
// lacks. Its threads live as long as the session, so that an action does not pay for starting them.
//
// Where our kernels do the products, only they and attention are shared out, by a pool of our own:
// ggml's threads meet at a barrier after every operator, however small, and spin there, which on a
// machine that does something else as well costs many times what it saves.
class Backend {
  public:
    // threads = 0: as many as a model of this size has work for. rounded: weights have few bits.
    // device: as find_device takes it. Graphs for a device are made of ggml's operators alone.
    Backend(int threads, uint64_t parameter_count, bool rounded, const std::string& device);
    ~Backend();

    // "cpu", or the device's own name.
    const Device& where() const { return chosen; }
    ggml_backend* cpu() const { return cpu_handle.get(); }
    ggml_backend* device() const { return device_handle.get(); } // null: all is computed by the CPU
    // Whether the device computes such a node.
    bool device_takes(const ggml_tensor* node) const;

    // Throws Error in a process that was forked since: threads are not forked with it.
    void demand_threads() const;
    int threads() const { return thread_count; }
    Isa isa() const { return instructions; }
    // What our kernels share their work out by; null where ggml's threads run them.
    WorkPool* pool() const { return work_pool.get(); }
    // What this machine, or the device, has at all.
    size_t memory_bytes() const;
    // A buffer over memory that is there already and outlives it, e.g. a mapped file.
    BufferPointer place(void* data, size_t bytes) const;
    // A buffer of the device for all tensors of a context; null where there is none.
    BufferPointer allocate_on_device(ggml_context* tensors) const;
    // For a graph of so many nodes and leafs. One that was returned is taken first, the last one
    // returned before others: graphs of another prompt length then take no other memory.
    Scheduler take_scheduler(size_t nodes);
    void return_scheduler(Scheduler scheduler) { idle.push_back(std::move(scheduler)); }
    // Where our kernels do the products, all else runs on one thread.
    int ggml_threads() const { return work_pool ? 1 : thread_count; }
    // Where what is computed is noted; null but while a policy is profiled.
    Profile* profile() const { return active_profile; }
    void set_profile(Profile* profile) { active_profile = profile; }

  private:
    struct BackendDeleter {
        void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
    };
    struct PoolDeleter {
        void operator()(ggml_threadpool* pool) const;
    };

    Device chosen;
    int thread_count;
    Profile* active_profile = nullptr;
    Isa instructions;
    std::unique_ptr<WorkPool> work_pool;
    std::unique_ptr<ggml_threadpool, PoolDeleter> ggml_pool;
    std::unique_ptr<ggml_backend, BackendDeleter> cpu_handle;
    std::unique_ptr<ggml_backend, BackendDeleter> device_handle;
    std::vector<Scheduler> idle;
    const pid_t owner;
};

} // namespace actquant
