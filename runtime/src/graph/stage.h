#pragma once

#include "backend/placed_graph.h"
#include "graph/graph_builder.h"

#include <map>
#include <string>
#include <vector>

namespace actquant {

// Elements of a value, owned by somebody else.
struct ArrayView {
    DType dtype = DType::f32;
    Shape shape;
    const void* data = nullptr; // float, int64_t or uint8_t
};

struct Array {
    DType dtype = DType::f32;
    Shape shape;
    std::vector<uint8_t> bytes;

    template <typename Element> Element* as() { return reinterpret_cast<Element*>(bytes.data()); }
};

struct ValueInfo {
    std::string name;
    DType dtype;
    Shape shape;
};

// One program, ready to run: its host operators, and its device graph in memory that is allocated
// once. Host values and graph inputs that depend on no changed input are kept from run to run.
class Stage {
  public:
    // `shared` maps an input's name to a tensor of another stage with the same elements; the input
    // then reads that memory and is never set.
    // in_loop: it runs many times for one action.
    Stage(Program program, const Weights& weights, Backend& backend,
          const std::map<std::string, ggml_tensor*>& shared = {}, bool in_loop = false);

    const std::string& name() const { return program.stage; }
    const std::vector<ValueInfo>& inputs() const { return input_infos; }
    const std::vector<ValueInfo>& outputs() const { return output_infos; }
    const ValueInfo* find_input(const std::string& name) const;
    const ValueInfo* find_output(const std::string& name) const;
    // Whether the input exists and must be set, because it reads no other stage's memory.
    bool needs_input(const std::string& name) const;

    void set_input(const std::string& name, const ArrayView& value);
    void run();
    Array output(const std::string& name) const;
    // The device tensor behind an output; null when the output is a host value.
    ggml_tensor* output_tensor(const std::string& name) const;

    // Runs the host operators once, with nothing masked and all else zeros, but where `inputs` says
    // otherwise by name, and looks at every index: what does not fit is then the loader's error,
    // not the robot's.
    void check_host_program(const std::map<std::string, double>& inputs = {}) const;
    // The graph's buffer and the values of the host operators.
    size_t compute_bytes() const;
    size_t device_bytes() const { return placed->device_bytes(); }
    // What ggml needs beside the buffer while it computes; one block serves all stages.
    size_t work_bytes() const { return placed->work_bytes(); }
    // The operators of the program that the device, where there is one, leaves to the processor.
    const std::set<std::string>& operators_on_cpu() const { return left_to_cpu; }

  private:
    struct Input {
        std::string value;
        ValueInfo info;
        ggml_tensor* tensor = nullptr; // written directly when only the device reads it
        bool is_shared = false;
        bool is_set = false;
    };
    struct GgmlDeleter {
        void operator()(ggml_context* ggml) const { ggml_free(ggml); }
    };

    void check_host_sizes() const;
    void find_host_uses();
    void declare_inputs(const std::map<std::string, ggml_tensor*>& shared);
    void load_host_constants();
    void build_graph();
    void build(const Instruction& instruction);
    void build_outputs();
    void find_operators_on_cpu();
    void allocate();
    void evaluate_host();
    void fill_boundary(const Boundary& boundary);
    void compute_with(Profile& profile);
    void check_inputs_are_set() const;

    Program program;
    const Weights& weights;
    Backend& backend;
    std::unique_ptr<ggml_context, GgmlDeleter> ggml;
    std::unique_ptr<GraphBuilder> builder;
    ggml_cgraph* graph = nullptr;
    std::unique_ptr<PlacedGraph> placed;
    // Which instruction a node is of, and what computes that.
    std::map<const ggml_tensor*, std::pair<const Instruction*, std::string>> makers;
    ggml_tensor* last_made = nullptr;
    std::set<std::string> left_to_cpu;

    std::vector<ValueInfo> input_infos;
    std::vector<ValueInfo> output_infos;
    std::map<std::string, Input> inputs_by_name;
    std::map<std::string, ggml_tensor*> output_tensors;
    std::set<std::string> used_on_host;
    std::map<std::string, HostValue> host_values;
    // Host values that changed since the graph inputs were last written.
    std::set<std::string> changed;
};

} // namespace actquant
