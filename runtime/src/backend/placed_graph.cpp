#include "backend/placed_graph.h"

#include "backend/ggml_guard.h"
#include "common/error.h"

#include <ggml-cpu.h>
#include <ggml-impl.h>

#include <chrono>
#include <string>

namespace actquant {
namespace {

void check(ggml_status status) {
    if (status != GGML_STATUS_SUCCESS) {
        throw Error(std::string("ggml could not compute the graph: ") +
                    ggml_status_to_string(status));
    }
}

// The graph's inputs to the device, but for indices of tables that the processor reads: a scheduler
// would give them all to the processor, or none to anybody where views alone read them.
void assign_inputs(ggml_backend_sched* scheduler, ggml_cgraph* graph, const Backend& backend) {
    for (int k = 0; k < graph->n_leafs; k++) {
        if (graph->leafs[k]->buffer == nullptr) {
            ggml_backend_sched_set_tensor_backend(scheduler, graph->leafs[k], backend.device());
        }
    }
    for (int k = 0; k < graph->n_nodes; k++) {
        ggml_tensor* const* sources = graph->nodes[k]->src;
        if (graph->nodes[k]->op == GGML_OP_GET_ROWS &&
            ggml_backend_buffer_is_host(sources[0]->buffer) && sources[1]->buffer == nullptr) {
            ggml_backend_sched_set_tensor_backend(scheduler, sources[1], backend.cpu());
        }
    }
}

} // namespace

PlacedGraph::PlacedGraph(Backend& on_backend, ggml_cgraph* to_place)
    : backend(on_backend), graph(to_place) {
    ggml_backend* first = backend.device() == nullptr ? backend.cpu() : backend.device();
    allocator.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(first)));
    if (allocator) {
        check_size(allocator.get());
    }
    if (!allocator || !allocate()) {
        throw Error("out of memory");
    }
}

PlacedGraph::~PlacedGraph() {
    if (scheduler.handle) {
        backend.return_scheduler(std::move(scheduler));
    }
}

void PlacedGraph::check_size(ggml_gallocr* measured) const {
    size_t bytes = 0;
    ggml_gallocr_reserve_n_size(measured, graph, nullptr, nullptr, &bytes);
    if (bytes > backend.memory_bytes()) {
        throw FileError("its graph needs " + std::to_string(bytes) + " bytes, more than the " +
                        std::to_string(backend.memory_bytes()) + " of this " +
                        (backend.device() == nullptr ? "machine" : "device"));
    }
}

bool PlacedGraph::allocate() {
    if (backend.device() == nullptr) {
        return ggml_gallocr_reserve(allocator.get(), graph) &&
               ggml_gallocr_alloc_graph(allocator.get(), graph);
    }
    allocator.reset();
    scheduler = backend.take_scheduler(static_cast<size_t>(graph->n_nodes + graph->n_leafs));
    if (!scheduler.handle) {
        return false;
    }
    assign_inputs(scheduler.handle.get(), graph, backend);
    return ggml_backend_sched_alloc_graph(scheduler.handle.get(), graph);
}

void PlacedGraph::compute() {
    check(scheduler.handle ? ggml_backend_sched_graph_compute(scheduler.handle.get(), graph)
                           : ggml_backend_graph_compute(backend.cpu(), graph));
}

void PlacedGraph::compute_by_node(const std::function<void(ggml_tensor*, double)>& done) {
    for (int k = 0; k < ggml_graph_n_nodes(graph); k++) {
        ggml_cgraph node = ggml_graph_view(graph, k, k + 1);
        auto begin = std::chrono::steady_clock::now();
        check(ggml_backend_graph_compute(backend.cpu(), &node));
        std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
        done(ggml_graph_node(graph, k), passed.count());
    }
}

size_t PlacedGraph::bytes() const {
    return scheduler.handle
               ? ggml_backend_sched_get_buffer_size(scheduler.handle.get(), backend.cpu())
               : ggml_gallocr_get_buffer_size(allocator.get(), 0);
}

size_t PlacedGraph::device_bytes() const {
    return scheduler.handle
               ? ggml_backend_sched_get_buffer_size(scheduler.handle.get(), backend.device())
               : 0;
}

size_t PlacedGraph::work_bytes() const {
    if (scheduler.handle) {
        return 0;
    }
    GgmlGuard guard;
    return ggml_graph_plan(graph, backend.ggml_threads(), nullptr).work_size;
}

} // namespace actquant
