#include "backend/backend.h"

#include "backend/usable_cores.h"
#include "common/error.h"
#include "kernels/panel_product.h"

#include <ggml-cpu.h>
#include <ggml-impl.h>

#include <algorithm>
#include <chrono>
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

Backend::Backend(int threads, uint64_t parameter_count, bool rounded)
    : thread_count(resolve_threads(threads, parameter_count)), instructions(usable_isa()),
      owner(getpid()) {
    if (rounded && int8_kernel(instructions) != nullptr) {
        work_pool = std::make_unique<WorkPool>(thread_count);
    }
    int ggml_threads = work_pool ? 1 : thread_count;
    ggml_threadpool_params params = ggml_threadpool_params_default(ggml_threads);
    ggml_pool.reset(ggml_threadpool_new(&params));
    handle.reset(ggml_backend_cpu_init());
    if (!ggml_pool || !handle) {
        throw Error("cannot start the CPU backend with " + std::to_string(thread_count) +
                    " threads");
    }
    ggml_backend_cpu_set_n_threads(handle.get(), ggml_threads);
    ggml_backend_cpu_set_threadpool(handle.get(), ggml_pool.get());
}

Backend::~Backend() {
    if (getpid() != owner) {
        ggml_pool.release(); // it would wait for ever for threads that are not in this process
    }
}

void Backend::demand_threads() const {
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

ggml_backend_buffer_type_t Backend::buffer_type() const {
    return ggml_backend_get_default_buffer_type(handle.get());
}

size_t Backend::memory_bytes() const {
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

size_t Backend::work_bytes(ggml_cgraph* graph) const {
    return ggml_graph_plan(graph, work_pool ? 1 : thread_count, nullptr).work_size;
}

void Backend::compute(ggml_cgraph* graph) {
    ggml_status status = ggml_backend_graph_compute(handle.get(), graph);
    if (status != GGML_STATUS_SUCCESS) {
        throw Error(std::string("ggml could not compute the graph: ") +
                    ggml_status_to_string(status));
    }
}

void Backend::compute_by_node(ggml_cgraph* graph,
                              const std::function<void(ggml_tensor*, double)>& done) {
    for (int k = 0; k < ggml_graph_n_nodes(graph); k++) {
        ggml_cgraph node = ggml_graph_view(graph, k, k + 1);
        auto begin = std::chrono::steady_clock::now();
        compute(&node);
        std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
        done(ggml_graph_node(graph, k), passed.count());
    }
}

} // namespace actquant
