#pragma once

#include "backend/backend.h"

#include <ggml-alloc.h>

namespace actquant {

// A graph in memory that is allocated once. What the device lacks is computed by the processor, and
// copied there and back.
class PlacedGraph {
  public:
    // Both must outlive it. Throws FileError if the graph needs more memory than there is at all,
    // Error if it cannot be had now.
    PlacedGraph(Backend& backend, ggml_cgraph* graph);
    ~PlacedGraph();
    PlacedGraph(const PlacedGraph&) = delete;
    PlacedGraph& operator=(const PlacedGraph&) = delete;

    void compute();
    // The same on the processor, one node after the other, each followed by done(node, seconds).
    void compute_by_node(const std::function<void(ggml_tensor* node, double seconds)>& done);
    // Of this machine, and of the device.
    size_t bytes() const;
    size_t device_bytes() const;
    // What ggml needs beside these bytes while it computes on the processor alone.
    size_t work_bytes() const;

  private:
    struct AllocatorDeleter {
        void operator()(ggml_gallocr* allocator) const { ggml_gallocr_free(allocator); }
    };

    void check_size(ggml_gallocr* allocator) const;
    bool allocate();

    Backend& backend;
    ggml_cgraph* graph;
    // One of them: the scheduler where there is a device.
    std::unique_ptr<ggml_gallocr, AllocatorDeleter> allocator;
    Scheduler scheduler;
};

} // namespace actquant
