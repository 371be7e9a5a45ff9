#include "backend/backend.h"

#include "backend/usable_cores.h"
#include "common/error.h"
#include "kernels/panel_product.h"

#include <ggml-alloc.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <string>

#include <unistd.h>

namespace actquant {
namespace {

// A small model has too little work to share: ggml's threads spin while they wait for each other,
// which on a machine that does something else as well costs many times what it saves.
constexpr uint64_t PARAMETERS_PER_THREAD = 20'000'000;

int resolve_threads(int threads, uint64_t parameter_count) {
    if (threads < 0 || threads > GGML_MAX_N_THREADS) {
        throw ArgumentError("threads must be between 0 (by the model's size) and " +
                            std::to_string(GGML_MAX_N_THREADS) + ", not " +
                            std::to_string(threads));
    }
    if (threads > 0) {
        return threads;
    }
    int useful = static_cast<int>(
        std::min<uint64_t>(1 + parameter_count / PARAMETERS_PER_THREAD, GGML_MAX_N_THREADS));
    return std::min(useful, usable_cores());
}

} // namespace

Backend::Backend(int threads, uint64_t parameter_count, bool rounded, const std::string& device)
    : chosen(find_device(device)), thread_count(resolve_threads(threads, parameter_count)),
      instructions(chosen.handle == nullptr ? usable_isa() : Isa::ggml), owner(getpid()) {
    if (rounded && int8_kernel(instructions) != nullptr) {
        work_pool = std::make_unique<WorkPool>(thread_count);
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(ggml_threads());
    ggml_pool.reset(ggml_threadpool_new(&params));
    cpu_handle.reset(ggml_backend_cpu_init());
    if (!ggml_pool || !cpu_handle) {
        throw Error("cannot start the CPU backend with " + std::to_string(thread_count) +
                    " threads");
    }
    ggml_backend_cpu_set_n_threads(cpu_handle.get(), ggml_threads());
    ggml_backend_cpu_set_threadpool(cpu_handle.get(), ggml_pool.get());
    if (chosen.handle != nullptr) {
        device_handle.reset(ggml_backend_dev_init(chosen.handle, nullptr));
        if (!device_handle) {
            throw Error("cannot start the device " + chosen.name + " (" + chosen.description + ")");
        }
    }
}

Backend::~Backend() {
    if (getpid() != owner) {
        ggml_pool.release();     // it would wait for ever for threads that are not in this process
        device_handle.release(); // its driver knows nothing of this process
        for (Scheduler& scheduler : idle) {
            scheduler.handle.release();
        }
    }
}

Scheduler Backend::take_scheduler(size_t nodes) {
    if (!idle.empty() && idle.back().capacity >= nodes) {
        Scheduler scheduler = std::move(idle.back());
        idle.pop_back();
        ggml_backend_sched_reset(scheduler.handle.get());
        return scheduler;
    }
    ggml_backend* backends[] = {device(), cpu()};
    size_t capacity = 2 * nodes; // another length may need some more
    Scheduler scheduler;
    scheduler.handle.reset(ggml_backend_sched_new(backends, nullptr, 2, capacity, false, false));
    scheduler.capacity = capacity;
    return scheduler;
}

bool Backend::device_takes(const ggml_tensor* node) const {
    return device_handle && ggml_backend_supports_op(device_handle.get(), node);
}

void Backend::demand_threads() const {
    if (device_handle && getpid() != owner) {
        throw Error("process " + std::to_string(getpid()) + " was forked from process " +
                    std::to_string(owner) + ", which opened this policy on " + chosen.name +
                    "; open it here");
    }
    // Whoever asks our own pool does alone what nobody else takes.
    if (thread_count > 1 && !work_pool && getpid() != owner) {
        throw Error("process " + std::to_string(getpid()) + " was forked from process " +
                    std::to_string(owner) + ", which opened this policy with " +
                    std::to_string(thread_count) +
                    " threads; they are not forked with it: open the policy here, or with 1 "
                    "thread there");
    }
}

void Backend::PoolDeleter::operator()(ggml_threadpool* pool) const {
    ggml_threadpool_free(pool);
}

size_t Backend::memory_bytes() const {
    if (chosen.handle != nullptr) {
        size_t free = 0, total = 0;
        ggml_backend_dev_memory(chosen.handle, &free, &total);
        return total;
    }
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    return size_t(64) << 20; // a fuzzer looks for what is wrong, not for what is large
#else
    return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
           static_cast<size_t>(sysconf(_SC_PAGESIZE));
#endif
}

BufferPointer Backend::place(void* data, size_t bytes) const {
    return BufferPointer(ggml_backend_cpu_buffer_from_ptr(data, bytes));
}

BufferPointer Backend::allocate_on_device(ggml_context* tensors) const {
    if (!device_handle || ggml_get_first_tensor(tensors) == nullptr) {
        return nullptr;
    }
    BufferPointer buffer(ggml_backend_alloc_ctx_tensors(tensors, device_handle.get()));
    if (!buffer) {
        throw Error("out of memory on " + chosen.name + " (" + chosen.description +
                    ") for the weights");
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    return buffer;
}

} // namespace actquant
